#include "bench/node.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace lamina {
namespace {

int64_t parse_size(const std::string& text) {  // "32768K"
  std::istringstream in(text);
  int64_t value = 0;
  char unit = ' ';
  in >> value >> unit;
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : unit == 'G' ? value << 30 : value;
}

}  // namespace

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string field_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find(':');
      const size_t begin = line.find_first_not_of(" \t", colon + 1);
      return begin == std::string::npos ? "" : line.substr(begin);
    }
  return "";
}

std::vector<int> affinity() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  if (cpus.empty())
    for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
      cpus.push_back(static_cast<int>(cpu));
  return cpus;
}

std::map<int, int64_t> node_caches() {
  std::map<int, int64_t> caches;
  std::set<std::string> seen;
  const long cpus = sysconf(_SC_NPROCESSORS_CONF);
  for (long cpu = 0; cpu < cpus; ++cpu)
    for (int index = 0; index < 8; ++index) {
      const std::string base = fmt::format("/sys/devices/system/cpu/cpu{}/cache/index{}/", cpu, index);
      const std::string level = first_line(base + "level"), type = first_line(base + "type");
      if (level.empty() || type == "Instruction") continue;
      if (!seen.insert(level + type + first_line(base + "shared_cpu_list")).second) continue;
      caches[std::atoi(level.c_str())] += parse_size(first_line(base + "size"));
    }
  return caches;
}

int64_t kilobytes_of(const std::string& key) {
  return std::atoll(field_of("/proc/meminfo", key).c_str()) * 1024;
}

int64_t available_memory() {
  int64_t available = kilobytes_of("MemAvailable");
  std::string group = first_line("/proc/self/cgroup");
  const size_t colon = group.rfind(':');
  if (colon != std::string::npos) {
    const std::string base = "/sys/fs/cgroup" + group.substr(colon + 1);
    const std::string limit = first_line(base + "/memory.max");
    if (!limit.empty() && limit != "max")
      available = std::min<int64_t>(
          available, std::atoll(limit.c_str()) - std::atoll(first_line(base + "/memory.current").c_str()));
  }
  return std::max<int64_t>(available, 0);
}

}  // namespace lamina

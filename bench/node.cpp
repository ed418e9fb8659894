#include "bench/node.hpp"

#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
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

// This process's control group of the hierarchy that has `controller`, and those above it, as folders: v2's
// and v1's, since a system may have both. Any of them may not exist, such as those outside a container.
std::vector<std::string> control_groups(const std::string& controller, const std::string& root) {
  std::vector<std::string> folders;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "4:cpu,cpuacct:/docker/1a", v2: "0::/user.slice"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find("," + controller + ",") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    if (!path.starts_with('/') || path == "/" || path.find("..") != std::string::npos) path.clear();
    for (const std::string& mount : {v2 ? "" : "/" + controllers, v2 ? "/unified" : "/" + controller})
      for (std::string above = path;; above.resize(above.rfind('/'))) {
        folders.push_back(root + "/sys/fs/cgroup" + mount + above);
        if (above.empty()) break;
      }
  }
  return folders;
}

// The number in a file of one number; none where there is no file, or "max".
std::optional<int64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

// The value of a "KEY VALUE" line; 0 without one.
int64_t stat_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  for (int64_t value = 0; file >> name >> value;)
    if (name == key) return value;
  return 0;
}

// What is left below one limit; page cache gives way, so it counts as left.
int64_t left_of(int64_t limit, const std::string& folder, const std::string& usage,
                const std::string& total) {
  const std::string stat = folder + "/memory.stat";
  const int64_t cache = stat_of(stat, total + "inactive_file") + stat_of(stat, total + "active_file");
  return limit - std::max<int64_t>(number_in(folder + usage).value_or(0) - cache, 0);
}

// The soft limit in /proc/self/limits, in bytes; none when unlimited.
std::optional<int64_t> soft_limit(const std::string& name, const std::string& root) {
  std::ifstream limits(root + "/proc/self/limits");
  for (std::string line; std::getline(limits, line);)
    if (line.starts_with(name)) {
      std::istringstream in(line.substr(name.size()));
      int64_t value = 0;
      if (in >> value) return value;
    }
  return std::nullopt;
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
  std::set<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.insert(cpu);
  // Where OpenMP binds threads (OMP_PROC_BIND) it has bound the first one before main begins, to one of the
  // places that all of them have.
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> ids(static_cast<size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, ids.data());
    cpus.insert(ids.begin(), ids.end());
  }
  if (cpus.empty())
    for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
      cpus.insert(static_cast<int>(cpu));
  return {cpus.begin(), cpus.end()};
}

bool openmp_binds() {
  return omp_get_proc_bind() != omp_proc_bind_false;
}

std::vector<int> cores_of(const std::vector<int>& cpus, const std::string& root) {
  std::set<int> cores;
  for (int cpu : cpus) {
    // "0,64" or "0-1"
    const auto first =
        number_in(fmt::format("{}/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", root, cpu));
    cores.insert(first ? static_cast<int>(*first) : cpu);
  }
  return {cores.begin(), cores.end()};
}

namespace {

struct DataCache {
  int level = 0;
  std::string folder;  // in sysfs
};

std::vector<DataCache> data_caches(long cpu) {
  std::vector<DataCache> caches;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu{}/cache/index{}/", cpu, index);
    const std::string level = first_line(folder + "level");
    if (!level.empty() && first_line(folder + "type") != "Instruction")
      caches.push_back({std::atoi(level.c_str()), folder});
  }
  return caches;
}

}  // namespace

std::map<int, int64_t> node_caches() {
  std::map<int, int64_t> caches;
  std::set<std::string> seen;
  const long cpus = sysconf(_SC_NPROCESSORS_CONF);
  for (long cpu = 0; cpu < cpus; ++cpu)
    for (const DataCache& cache : data_caches(cpu)) {
      const std::string shared = first_line(cache.folder + "shared_cpu_list"),
                        type = first_line(cache.folder + "type");
      if (seen.insert(fmt::format("{} {} {}", cache.level, type, shared)).second)
        caches[cache.level] += parse_size(first_line(cache.folder + "size"));
    }
  return caches;
}

int64_t second_cache_bytes(int cpu) {
  for (const DataCache& cache : data_caches(cpu))
    if (cache.level == 2) return parse_size(first_line(cache.folder + "size"));
  return 0;
}

int64_t bytes_of(const std::string& path, const std::string& key) {
  return std::atoll(field_of(path, key + ":").c_str()) * 1024;
}

int64_t available_memory(const std::string& root) {
  int64_t available = bytes_of(root + "/proc/meminfo", "MemAvailable");
  for (const std::string& folder : control_groups("memory", root)) {
    // Above memory.high the kernel slows the process down until it gives memory back: as good as a limit
    // here.
    for (const char* name : {"/memory.max", "/memory.high"})
      if (const auto limit = number_in(folder + name))
        available = std::min(available, left_of(*limit, folder, "/memory.current", ""));
    if (const auto limit = number_in(folder + "/memory.limit_in_bytes"))
      available = std::min(available, left_of(*limit, folder, "/memory.usage_in_bytes", "total_"));
  }
  return std::max<int64_t>(available, 0);
}

int64_t process_memory_left(const std::string& root) {
  int64_t left = std::numeric_limits<int64_t>::max();
  const std::string status = root + "/proc/self/status";
  if (const auto limit = soft_limit("Max address space", root))
    left = std::min(left, *limit - bytes_of(status, "VmSize"));
  if (const auto limit = soft_limit("Max data size", root))
    left = std::min(left, *limit - bytes_of(status, "VmData"));
  return std::max<int64_t>(left, 0);
}

double cpu_quota(const std::string& root) {
  double quota = std::numeric_limits<double>::infinity();
  for (const std::string& folder : control_groups("cpu", root)) {
    std::istringstream v2(first_line(folder + "/cpu.max"));  // "200000 100000" or "max 100000", in µs
    double granted = 0, period = 0;
    if (v2 >> granted >> period && period > 0) quota = std::min(quota, granted / period);
    const auto v1 = number_in(folder + "/cpu.cfs_quota_us"), of = number_in(folder + "/cpu.cfs_period_us");
    if (v1.value_or(-1) > 0 && of.value_or(0) > 0)
      quota = std::min(quota, static_cast<double>(*v1) / static_cast<double>(*of));
  }
  return quota;
}

double busy_seconds(const std::string& root) {
  std::istringstream line(first_line(root + "/proc/stat"));
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, wait = 0, interrupts = 0, soft = 0, stolen = 0;
  line >> cpu >> user >> nice >> system >> idle >> wait >> interrupts >> soft >> stolen;
  return (user + nice + system + interrupts + soft + stolen) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string clock_governor(int cpu, const std::string& root) {
  return first_line(fmt::format("{}/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", root, cpu));
}

std::string turbo(const std::string& root) {
  const std::string base = root + "/sys/devices/system/cpu/";
  if (const auto off = number_in(base + "intel_pstate/no_turbo")) return *off == 0 ? "on" : "off";
  if (const auto boost = number_in(base + "cpufreq/boost")) return *boost != 0 ? "on" : "off";
  return "";
}

void give_back_freed() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace lamina

#include "bench/environment.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

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

int64_t parse_size(const std::string& text) {  // "32768K"
  std::istringstream in(text);
  int64_t value = 0;
  char unit = ' ';
  in >> value >> unit;
  return unit == 'K' ? value << 10 : unit == 'M' ? value << 20 : unit == 'G' ? value << 30 : value;
}

// Level → bytes of all instances on the node, as sysfs lists them.
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

// What this node's ranks may still take: the kernel's estimate, or the control group's limit where that is
// lower.
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

std::string blas_version() {
  if (auto* config = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_config"))) {
    std::string text = config();
    if (auto* core = reinterpret_cast<char* (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_corename")))
      text += fmt::format(" [{}]", core());
    return text;
  }
  if (dlsym(RTLD_DEFAULT, "MKL_Get_Version") != nullptr) return "Intel MKL";
  if (dlsym(RTLD_DEFAULT, "bli_info_get_version_str") != nullptr) return "BLIS";
  return "unnamed BLAS";
}

// What makes this launch's times dubious, from where its ranks run.
std::vector<std::string> placement_warnings(const std::vector<RankPlace>& places, int cores) {
  std::vector<std::string> warnings;
  std::map<std::string, std::map<int, int>> bound;  // host → cpu → ranks bound to few cores that include it
  std::map<std::string, int> wanted;
  bool unbound = false;
  for (const RankPlace& place : places) {
    wanted[place.host] += place.threads;
    const bool own = static_cast<int>(place.cpus.size()) <= place.threads;
    unbound |= !own;
    if (own)
      for (int cpu : place.cpus) ++bound[place.host][cpu];
  }
  for (const auto& [host, threads] : wanted)
    if (threads > cores)
      warnings.push_back(fmt::format("oversubscribed: {} threads of all ranks on {} cores", threads, cores));
  if (unbound && places.size() > 1)
    warnings.push_back("unbound ranks: the system may move them (mpirun --bind-to core)");
  for (const auto& [host, cpus] : bound)
    for (const auto& [cpu, ranks] : cpus)
      if (ranks > 1) {
        warnings.push_back(fmt::format("{} ranks share core {}", ranks, cpu));
        break;
      }
  return warnings;
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string commit() {
  return
#include "commit.inc"
      ;
}

Machine inspect_machine(Communicator& world, uint64_t seed, const std::string& default_cache) {
  Machine machine;
  LaunchInfo& launch = machine.launch;
  launch.ranks = world.size();
  launch.local_ranks = static_cast<int>(world.max(world.local_size()));
  launch.seed = seed;
  launch.default_cache = default_cache;
  const std::vector<int> cpus = affinity();
  launch.cores = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const int fair = std::max(1, launch.cores / launch.local_ranks);
  // The same on every rank, so that cases and their names are.
  launch.default_threads = static_cast<int>(
      -world.max(-static_cast<double>(std::min<size_t>(cpus.size(), static_cast<size_t>(fair)))));
  const std::map<int, int64_t> caches = node_caches();
  launch.cache_bytes = caches.empty() ? 32 << 20 : caches.rbegin()->second;
  launch.cache_bytes = static_cast<int64_t>(world.max(static_cast<double>(launch.cache_bytes)));
  machine.available_bytes =
      static_cast<int64_t>(-world.max(-static_cast<double>(available_memory()) / world.local_size()));

  Json place;
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  place["host"] = host;
  place["cpus"] = cpus;
  const std::string mine = place.dump();
  for (int rank = 0; rank < world.size(); ++rank) {
    const Json theirs = Json::parse(world.broadcast_text(mine, rank));
    machine.places.push_back(
        {theirs["host"], theirs["cpus"].get<std::vector<int>>(), launch.default_threads});
  }
  machine.warnings = placement_warnings(machine.places, launch.cores);
  // One minute's average before this launch did anything but start.
  const double load = std::atof(first_line("/proc/loadavg").c_str());
  if (load > 0.5 * launch.cores + world.local_size())
    machine.warnings.push_back(
        fmt::format("busy machine: load {:.1f} on {} cores before the run", load, launch.cores));
  return machine;
}

std::string environment_text(const Config& config, const Machine& machine, const Registry& registry,
                             Communicator& world, const std::string& run_id, const std::string& launch_id,
                             const std::string& started, const std::vector<std::string>& command_line,
                             const std::vector<CeilingValues>& ceilings, const std::string& previous) {
  Json root;
  if (!previous.empty()) root = Json::parse(previous, nullptr, false);
  if (!root.is_object()) root = Json::object();
  root["schema_version"] = 1;
  root["run_id"] = run_id;
  root["lamina"] = {{"version", LAMINA_VERSION},
                    {"commit", commit()},
                    {"build_type", LAMINA_BUILD_TYPE},
                    {"compiler", LAMINA_COMPILER}};
  utsname system{};
  uname(&system);
  Json caches = Json::array();
  for (const auto& [level, bytes] : node_caches())
    caches.push_back({{"level", level}, {"bytes_of_all", bytes}});
  std::string isa;
  for (const Kernel* kernel : registry.kernels("cpu"))
    if (kernel->name == "native") isa = kernel->isa;
  root["machine"] = {{"host", machine.places.front().host},
                     {"cpu", field_of("/proc/cpuinfo", "model name")},
                     {"cores", machine.launch.cores},
                     {"isa", isa},
                     {"caches", caches},
                     {"memory_bytes", kilobytes_of("MemTotal")},
                     {"system", fmt::format("{} {} {}", system.sysname, system.release, system.machine)},
                     {"distribution", field_of("/etc/os-release", "PRETTY_NAME")}};
  // os-release separates with '=' rather than ':'.
  std::ifstream release("/etc/os-release");
  for (std::string line; std::getline(release, line);)
    if (line.starts_with("PRETTY_NAME=")) root["machine"]["distribution"] = line.substr(13, line.size() - 14);
  for (const DeviceInfo& device : registry.devices())
    if (device.type != "cpu")
      root["machine"][device.type] = device.available ? Json(device.units) : Json(device.reason);
  root["libraries"] = {{"mpi", Launch::library()}, {"blas", blas_version()}};
  root["config"] = Json::parse(config.text, nullptr, false);
  root["config_digest"] = config.digest;
  Json launch = {{"launch_id", launch_id},
                 {"started", started},
                 {"written", utc_now()},
                 {"command", command_line},
                 {"ranks", world.size()},
                 {"nodes", world.nodes()},
                 {"threads", machine.launch.default_threads},
                 {"warnings", machine.warnings}};
  Json places = Json::array();
  for (const RankPlace& place : machine.places)
    places.push_back({{"host", place.host}, {"cpus", place.cpus}});
  launch["binding"] = places;
  Json limits = Json::array();
  for (const CeilingValues& values : ceilings) {
    Json read = Json::object();
    for (const auto& [threads, rate] : values.read_gb_per_s) read[std::to_string(threads)] = rate;
    limits.push_back({{"ranks", values.ranks},
                      {"threads", values.threads},
                      {"read_gb_per_s_by_threads", read},
                      {"fp32_gflops", values.fp32_gflops},
                      {"int8_gops", values.int8_gops},
                      {"all_reduce_latency_us", values.all_reduce_latency_us},
                      {"all_reduce_gb_per_s", values.all_reduce_gb_per_s},
                      {"fp32_drift", values.drift}});
  }
  launch["ceilings"] = limits;
  Json& launches = root["launches"];
  if (!launches.is_array()) launches = Json::array();
  Json kept = Json::array();
  for (const Json& one : launches)
    if (one.value("launch_id", "") != launch_id) kept.push_back(one);
  kept.push_back(launch);
  launches = kept;
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace lamina

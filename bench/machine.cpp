#include "bench/machine.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "bench/node.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

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

}  // namespace lamina

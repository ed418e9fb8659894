#include "bench/machine.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "bench/node.hpp"
#include "kernels/cpu/blas_threads.hpp"
#include "kernels/cpu/slowdown.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::milliseconds kWatch{250};
constexpr double kIdle = 0.1;       // cores that daemons, and the watching itself, may keep busy
constexpr double kIdleShare = 0.1;  // and of the node's cores: the rest has room for the ranks

// The ranks of one host, among the first `ranks` of a launch.
struct Node {
  int ranks = 0;
  std::set<int> cores;  // of any of them
  double quota = std::numeric_limits<double>::infinity();
  int64_t bytes = std::numeric_limits<int64_t>::max();
};

std::map<std::string, Node> nodes_of(const std::vector<RankPlace>& places, int ranks) {
  std::map<std::string, Node> nodes;
  for (int rank = 0; rank < std::min(ranks, static_cast<int>(places.size())); ++rank) {
    const RankPlace& place = places[static_cast<size_t>(rank)];
    Node& node = nodes[place.host];
    ++node.ranks;
    node.cores.insert(place.cores.begin(), place.cores.end());
    if (place.quota > 0) node.quota = std::min(node.quota, place.quota);
    node.bytes = std::min(node.bytes, place.node_bytes);
  }
  return nodes;
}

}  // namespace

int64_t Machine::available_bytes_for(int ranks) const {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  for (const auto& [host, node] : nodes_of(places, ranks)) bytes = std::min(bytes, node.bytes / node.ranks);
  for (int rank = 0; rank < std::min(ranks, static_cast<int>(places.size())); ++rank)
    bytes = std::min(bytes, places[static_cast<size_t>(rank)].process_bytes);
  return bytes;
}

std::vector<std::string> Machine::warnings_for(int ranks, int threads) const {
  std::vector<std::string> texts;
  const auto add = [&](const std::string& text) {
    if (std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(text);
  };
  const auto oversubscribed = [&](int wanted, const std::string& cores) {
    add(fmt::format("oversubscribed: {} threads on {}", wanted, cores));
  };
  for (const auto& [host, node] : nodes_of(places, ranks)) {
    const int wanted = node.ranks * threads;
    if (wanted > static_cast<int>(node.cores.size()))
      oversubscribed(wanted, fmt::format("{} core{}", node.cores.size(), node.cores.size() == 1 ? "" : "s"));
    else if (wanted > node.quota)
      oversubscribed(wanted, fmt::format("a CPU quota of {:.3g}", node.quota));
  }
  std::map<std::string, std::map<int, int>> bound;  // host → core → ranks bound to few that include it
  std::map<std::string, int>
      stacked;  // host → ranks bound to more cores than threads, whose threads OpenMP binds
  bool unbound = false;
  const int present = std::min(ranks, static_cast<int>(places.size()));
  for (int rank = 0; rank < present; ++rank) {
    const RankPlace& place = places[static_cast<size_t>(rank)];
    const bool own = static_cast<int>(place.cores.size()) <= threads;
    unbound |= !own;
    if (!own && place.openmp_binds) ++stacked[place.host];
    if (own)
      for (int core : place.cores) ++bound[place.host][core];
  }
  // Each rank's OpenMP takes the same cores, the first ones.
  if (std::any_of(stacked.begin(), stacked.end(), [](const auto& host) { return host.second > 1; }))
    add("unbound ranks share cores: OpenMP binds the threads of each to the same ones (mpirun --bind-to "
        "core, "
        "or OMP_PROC_BIND=false)");
  else if (unbound && present > 1)
    add("unbound ranks: the system may move them (mpirun --bind-to core)");
  for (int rank = 0; rank < present; ++rank) {
    const RankPlace& place = places[static_cast<size_t>(rank)];
    if (threads > 1 && place.spans_numa)
      add(
          fmt::format("a rank's threads may span NUMA nodes {} (a rank for each: mpirun --map-by numa "
                      "--bind-to numa)",
                      cpu_list(place.numa_nodes)));
  }
  for (const auto& [host, cores] : bound)
    for (const auto& [core, sharers] : cores)
      if (sharers > 1) {
        add(fmt::format("{} ranks share core {}", sharers, core));
        break;
      }
  return texts;
}

int fair_threads(const std::vector<RankPlace>& places) {
  double threads = std::numeric_limits<double>::infinity();
  for (const auto& [host, node] : nodes_of(places, static_cast<int>(places.size())))
    threads =
        std::min(threads, std::min<double>(static_cast<double>(node.cores.size()), node.quota) / node.ranks);
  for (const RankPlace& place : places) threads = std::min(threads, static_cast<double>(place.cores.size()));
  return std::max(1, static_cast<int>(threads));
}

Machine inspect_machine(Communicator& world, uint64_t seed, const std::string& default_cache) {
  Machine machine;
  LaunchInfo& launch = machine.launch;
  launch.ranks = world.size();
  launch.local_ranks = static_cast<int>(world.max(world.local_size()));
  launch.seed = seed;
  launch.default_cache = default_cache;
  launch.cores = static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  const std::map<int, int64_t> caches = node_caches();
  launch.cache_bytes = caches.empty() ? 32 << 20 : caches.rbegin()->second;
  if (const char* text = std::getenv("LAMINA_CACHE_BYTES"))
    if (const long long bytes = std::atoll(text); bytes > 0) launch.cache_bytes = bytes;
  launch.cache_bytes = static_cast<int64_t>(world.max(static_cast<double>(launch.cache_bytes)));
  const Device* gpu = find_device("cuda");
  const int64_t gpu_free = gpu == nullptr ? 0 : gpu->free_bytes();
  launch.gpu_free_bytes = static_cast<int64_t>(-world.max(-static_cast<double>(gpu_free)));

  char host[256] = "";
  gethostname(host, sizeof host - 1);
  const std::vector<int> cpus = affinity();
  launch.core_cache_bytes = second_cache_bytes(cpus.front());
  const double quota = cpu_quota();
  machine.topology = read_topology();
  const Json place = {{"host", host},
                      {"cpus", cpus},
                      {"cores", cores_of(cpus)},
                      {"quota", std::isfinite(quota) ? quota : 0.0},
                      {"node_bytes", available_memory()},
                      {"process_bytes", process_memory_left()},
                      {"governor", clock_governor(cpus.front())},
                      {"blas_warning", blas_threads_warning()},
                      {"sockets", domains_of(cpus, machine.topology.sockets)},
                      {"numa_nodes", domains_of(cpus, machine.topology.numa_nodes)},
                      {"spans_numa", spans(cpus, machine.topology.numa_nodes)},
                      {"openmp_binds", openmp_binds()}};
  const std::string mine = place.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (int rank = 0; rank < world.size(); ++rank) {
    const Json theirs = Json::parse(world.broadcast_text(mine, rank));
    machine.places.push_back(
        {theirs["host"], theirs["cpus"].get<std::vector<int>>(), theirs["cores"].get<std::vector<int>>(),
         theirs["quota"], theirs["node_bytes"], theirs["process_bytes"], theirs["governor"],
         theirs["blas_warning"], theirs["sockets"].get<std::vector<int>>(),
         theirs["numa_nodes"].get<std::vector<int>>(), theirs["spans_numa"], theirs["openmp_binds"]});
  }
  launch.default_threads = fair_threads(machine.places);
  if (std::any_of(machine.places.begin(), machine.places.end(),
                  [](const RankPlace& one) { return one.governor == "powersave"; }))
    machine.warnings.push_back(
        "clock governor powersave: the clock may lag behind the load (cpupower frequency-set -g "
        "performance)");
  if (const std::string warning = slowdown_warning(); !warning.empty()) machine.warnings.push_back(warning);
  for (const RankPlace& one : machine.places)
    if (!one.blas_warning.empty()) {
      machine.warnings.push_back(one.blas_warning);
      break;
    }
  return machine;
}

std::string busy_warning(double busy, double cores) {
  if (busy <= kIdle + kIdleShare * cores) return "";
  return fmt::format("busy machine: other processes kept {:.1f} of {:.0f} cores busy before the run", busy,
                     cores);
}

std::vector<std::string> busy_warnings(const Machine& machine, Communicator& world) {
  // Ranks that come early must not spin on a core while others still watch: rest() sleeps, before and after.
  world.rest();
  const auto begin = std::chrono::steady_clock::now();
  const double before = busy_seconds();
  std::this_thread::sleep_for(kWatch);
  const double worked = busy_seconds() - before;
  const std::chrono::duration<double> watched = std::chrono::steady_clock::now() - begin;
  world.rest();

  const double own[2] = {worked / watched.count(), static_cast<double>(machine.launch.cores)};
  std::vector<double> all(2 * machine.places.size());
  world.all_gather(own, all.data(), std::vector<int64_t>(machine.places.size(), sizeof own));
  std::vector<std::string> warnings;
  std::set<std::string> seen;
  for (size_t rank = 0; rank < machine.places.size(); ++rank) {
    const std::string warning = busy_warning(all[2 * rank], all[2 * rank + 1]);
    if (!warning.empty() && seen.insert(machine.places[rank].host).second) warnings.push_back(warning);
  }
  return warnings;
}

}  // namespace lamina

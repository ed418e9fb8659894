// Where the ranks of a launch run, what they may use, and what makes their times dubious.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/workload.hpp"
#include "distributed/communicator.hpp"

namespace lamina {

// Where one rank runs.
struct RankPlace {
  std::string host;
  std::vector<int> cpus;  // its affinity
  int threads = 1;
};

struct Machine {
  LaunchInfo launch;
  std::vector<RankPlace> places;      // by rank, known on rank 0
  std::vector<std::string> warnings;  // what makes every row of this launch dubious
  int64_t available_bytes = 0;  // memory of the poorest rank: its node's available memory, or its control
                                // group's rest, over local ranks
};

// Collective over the launch.
Machine inspect_machine(Communicator& world, uint64_t seed, const std::string& default_cache);

}  // namespace lamina

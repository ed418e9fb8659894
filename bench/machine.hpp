// Where the ranks of a launch run, what they may use, and what makes their times dubious.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/topology.hpp"
#include "bench/workload.hpp"
#include "distributed/communicator.hpp"

namespace lamina {

// Where one rank runs.
struct RankPlace {
  std::string host;
  std::vector<int> cpus;      // its affinity
  std::vector<int> cores;     // the physical ones these belong to
  double quota = 0;           // CPUs' worth of time that its node's ranks may take together; 0: no limit
  int64_t node_bytes = 0;     // memory that its node's ranks may still take together
  int64_t process_bytes = 0;  // and this rank alone
  std::string governor;       // of its clock
  std::string blas_warning;   // of its BLAS's threads
  // That its CPUs belong to; empty where nothing says so.
  std::vector<int> sockets = {}, numa_nodes = {};
  bool spans_numa = false;    // no NUMA node holds all of its CPUs
  bool openmp_binds = false;  // its threads, to the first of its CPUs
};

struct Machine {
  LaunchInfo launch;
  std::vector<RankPlace> places;      // by rank
  Topology topology;                  // of this rank's node
  std::vector<std::string> warnings;  // what makes every row of this launch dubious

  // What follows is of a group that runs on the first `ranks` ranks, the others at rest.

  // Memory that each of its ranks may take: the poorest node's over the ranks it runs there.
  int64_t available_bytes_for(int ranks) const;
  // What makes the group's rows dubious when each rank runs `threads` threads.
  std::vector<std::string> warnings_for(int ranks, int threads) const;
};

// Threads a rank: the cores each may run on, at most its share of what its node's ranks may use together. The
// same for all ranks, so that cases and their names are.
int fair_threads(const std::vector<RankPlace>& places);

// Collective over the launch; the same on every rank.
Machine inspect_machine(Communicator& world, uint64_t seed, const std::string& default_cache);

// Watches the nodes for a moment while all ranks sleep, so that what is busy is someone else. Collective; one
// warning a busy node, the same on every rank.
std::vector<std::string> busy_warnings(const Machine& machine, Communicator& world);
// Of a node whose idle ranks saw `busy` of its cores at work; empty when that leaves them room.
std::string busy_warning(double busy, double cores);

}  // namespace lamina

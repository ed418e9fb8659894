// Which CPUs of this node share a socket, a NUMA node, a last-level cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lamina {

// A part of the node and the CPUs (hardware threads, by the system's numbers) that belong to it, ascending.
struct Domain {
  int id = 0;         // the system's number; of a cache, its place among them
  int64_t bytes = 0;  // of a cache, or of a NUMA node's memory; 0 of a socket
  std::vector<int> cpus;
};

struct Topology {
  std::string source;  // who says so: "hwloc 2.9.0"
  std::string absent;  // why nothing is known; then all else is empty
  std::vector<Domain> sockets, numa_nodes, l3_caches;
};

// Of this node, as far as this process is allowed to see it; or of a machine described in hwloc's synthetic
// notation ("pack:2 numa:1 l3:2 core:4 pu:1"). Throws std::runtime_error on a description it cannot read.
Topology read_topology(const std::string& synthetic = "");

// The ids of the domains that any of these CPUs belong to.
std::vector<int> domains_of(const std::vector<int>& cpus, const std::vector<Domain>& domains);
// Whether there are domains and none holds all of these CPUs. (Several may: a NUMA node of fast memory beside
// one of ordinary memory.)
bool spans(const std::vector<int>& cpus, const std::vector<Domain>& domains);
// "0-3,8"
std::string cpu_list(const std::vector<int>& cpus);

}  // namespace lamina

#include "bench/topology.hpp"

#include <fmt/format.h>
#include <hwloc.h>

#include <memory>
#include <stdexcept>

namespace lamina {
namespace {

std::vector<Domain> domains(hwloc_topology_t topology, hwloc_obj_type_t type) {
  std::vector<Domain> found;
  for (hwloc_obj_t object = nullptr;
       (object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr;) {
    Domain domain;
    const bool cache = type == HWLOC_OBJ_L3CACHE;
    domain.id = static_cast<int>(cache ? object->logical_index : object->os_index);
    if (cache) domain.bytes = static_cast<int64_t>(object->attr->cache.size);
    if (type == HWLOC_OBJ_NUMANODE) domain.bytes = static_cast<int64_t>(object->attr->numanode.local_memory);
    for (int cpu = hwloc_bitmap_first(object->cpuset); cpu >= 0; cpu = hwloc_bitmap_next(object->cpuset, cpu))
      domain.cpus.push_back(cpu);
    found.push_back(domain);
  }
  return found;
}

}  // namespace

Topology read_topology(const std::string& synthetic) {
  Topology topology;
  hwloc_topology_t handle = nullptr;
  if (hwloc_topology_init(&handle) != 0) {
    topology.absent = "hwloc could not begin to read this machine's topology";
    return topology;
  }
  const std::unique_ptr<hwloc_topology, decltype(&hwloc_topology_destroy)> owner(handle,
                                                                                 hwloc_topology_destroy);
  if (!synthetic.empty() && hwloc_topology_set_synthetic(handle, synthetic.c_str()) != 0)
    throw std::runtime_error(fmt::format(
        "hwloc: expected a synthetic topology such as \"pack:2 core:4 pu:1\", found \"{}\"", synthetic));
  if (hwloc_topology_load(handle) != 0) {
    topology.absent = "hwloc could not read this machine's topology";
    return topology;
  }
  const unsigned version = hwloc_get_api_version();
  topology.source = fmt::format("hwloc {}.{}.{}", version >> 16, version >> 8 & 255, version & 255);
  topology.sockets = domains(handle, HWLOC_OBJ_PACKAGE);
  topology.numa_nodes = domains(handle, HWLOC_OBJ_NUMANODE);
  topology.l3_caches = domains(handle, HWLOC_OBJ_L3CACHE);
  return topology;
}

}  // namespace lamina

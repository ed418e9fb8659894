// hwloc was not built: the same interface, saying so.
#include "bench/topology.hpp"

namespace lamina {

Topology read_topology(const std::string&) {
  Topology topology;
  topology.absent = "built without hwloc; install Debian's libhwloc-dev and configure again";
  return topology;
}

}  // namespace lamina

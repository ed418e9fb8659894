// Every transport, declared once: transport.cpp lists them, and what is not built is a stub in absent/.
#pragma once

#include <string>
#include <utility>

#include "distributed/transport.hpp"

namespace lamina {

// One that was not built.
inline TransportType absent_transport(std::string name, std::string device, std::string why) {
  TransportType type;
  type.name = std::move(name);
  type.device = std::move(device);
  type.absent = std::move(why);
  return type;
}

TransportType self_transport();     // one rank alone, the host's memory
TransportType mpi_transport();      // MPI's own collectives, the host's memory
TransportType mpi_shm_transport();  // memory that a node's ranks share, MPI between nodes

// Of GPUs' memory.
TransportType nccl_transport();          // NCCL
TransportType nccl_oneshot_transport();  // Lamina's own kernels for short all-reduces of a node, else NCCL
TransportType staged_mpi_transport();    // MPI by way of the host's memory

}  // namespace lamina

// Every transport, declared once: transport.cpp lists them, and what is not built is a stub in absent/.
#pragma once

#include "distributed/transport.hpp"

namespace lamina {

TransportType self_transport();     // one rank alone, the host's memory
TransportType mpi_transport();      // MPI's own collectives, the host's memory
TransportType mpi_shm_transport();  // memory that a node's ranks share, MPI between nodes

}  // namespace lamina

// MPI for a GPU's memory, in a build without CUDA.
#include "distributed/transports.hpp"

namespace lamina {

TransportType staged_mpi_transport() {
  TransportType type;
  type.name = "mpi";
  type.device = "cuda";
  type.absent = "built without CUDA; configure with the `cuda` preset";
  return type;
}

}  // namespace lamina

// CUDA or NCCL was not built: lamina_bare has MPI's loop alone.
#include "distributed/mpi/bare/bare.hpp"

namespace bare {

std::string gpu_absence() {
  return "built without CUDA or NCCL; configure with the `cuda` preset and NCCL_ROOT";
}

std::vector<Row> time_nccl(const Options&) {
  return {};
}

}  // namespace bare

// BLIS was not found: the same kernel, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {

Kernel blis_kernel() {
  Kernel kernel;
  kernel.name = "blis";
  kernel.device = "cpu";
  kernel.help = "dense float32 by BLIS";
  kernel.absent = "built without BLIS; install libblis-openmp-dev, then configure and build again";
  return kernel;
}

}  // namespace lamina

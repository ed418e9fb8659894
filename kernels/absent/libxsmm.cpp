// LIBXSMM was not found: the same kernel, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {

Kernel libxsmm_kernel() {
  Kernel kernel;
  kernel.name = "libxsmm";
  kernel.device = "cpu";
  kernel.help = "dense float32 by LIBXSMM";
  kernel.absent = "built without LIBXSMM; install libxsmm-dev, then configure and build again";
  return kernel;
}

}  // namespace lamina

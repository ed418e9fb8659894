// LIBXSMM was not found, or one that the kernel is not written for: the same kernel, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {

Kernel libxsmm_kernel() {
  Kernel kernel;
  kernel.name = "libxsmm";
  kernel.device = "cpu";
  kernel.help = "dense float32 by LIBXSMM";
  kernel.absent = LAMINA_LIBXSMM_ABSENT;  // by CMake
  return kernel;
}

}  // namespace lamina

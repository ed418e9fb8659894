// LIBXSMM was not found, or one that the kernel is not written for: the same kernel, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {

Kernel libxsmm_kernel() {
  Kernel kernel;
  kernel.name = "libxsmm";
  kernel.device = "cpu";
  kernel.help = "dense float32 by LIBXSMM";
  // CMake says more where one was found.
  kernel.absent =
      "built without LIBXSMM" LAMINA_LIBXSMM_WHY "; install libxsmm-dev, then configure and build again";
  return kernel;
}

}  // namespace lamina

// oneDNN was not built: the same kernel, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {

Kernel onednn_kernel() {
  Kernel kernel;
  kernel.name = "onednn";
  kernel.device = "cpu";
  kernel.help = "dense float32 and W8A8 by oneDNN";
  kernel.absent = "built without oneDNN; install libdnnl-dev, then configure and build again";
  return kernel;
}

}  // namespace lamina

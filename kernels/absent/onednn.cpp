// oneDNN was not built: the same kernels, saying so.
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

Kernel absent_kernel(const char* name, const char* help) {
  Kernel kernel;
  kernel.name = name;
  kernel.device = "cpu";
  kernel.help = help;
  kernel.absent = "built without oneDNN; install libdnnl-dev, then configure and build again";
  return kernel;
}

}  // namespace

Kernel onednn_kernel() {
  return absent_kernel("onednn", "dense float32, bfloat16 by bf16 activations, and W8A8 by oneDNN");
}

Kernel onednn_u8s8_kernel() {
  return absent_kernel("onednn-u8s8", "W8A8 by oneDNN with activations made unsigned before it");
}

}  // namespace lamina

// The CUDA Toolkit has no cuSPARSE: its kernel, saying so.
#include "kernels/cuda/kernels.hpp"

namespace lamina {

Kernel cusparse_kernel() {
  Kernel kernel = cuda_kernel("cusparse", "cusparse", InputType::bf16, [](const Leaf& leaf) -> std::string {
    return leaf.pattern.kind == PatternKind::dense ? "takes pruned weights" : "";
  });
  kernel.help = "pruned bfloat16 by cuSPARSE's SpMM";
  kernel.absent = "built without cuSPARSE; install the CUDA Toolkit's libcusparse-dev";
  return kernel;
}

}  // namespace lamina

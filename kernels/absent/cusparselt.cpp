// cuSPARSELt was not found: its kernels, saying so.
#include "kernels/cuda/kernels.hpp"

namespace lamina {

std::vector<Kernel> cusparselt_kernels() {
  Kernel kernel =
      cuda_kernel("cusparselt", "cusparselt", InputType::bf16, [](const Leaf& leaf) -> std::string {
        return leaf.pattern.kind == PatternKind::n_of_m ? "" : "takes weights pruned 2:4";
      });
  kernel.help = "2:4 weights by cuSPARSELt, for many tokens";
  kernel.absent = "built without cuSPARSELt; configure with CUSPARSELT_ROOT naming its folder";
  return {kernel};
}

}  // namespace lamina

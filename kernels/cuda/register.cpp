// The kernels that run on GPUs: one line each.
#include <utility>

#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/kernels.hpp"

namespace lamina {

void register_cuda_kernels(Registry& registry) {
  registry.add(cublaslt_dense_kernel());
  registry.add(cublaslt_bf16_kernel());
  registry.add(cublaslt_fp16_kernel());
  registry.add(cublaslt_int8_kernel());
  registry.add(cublaslt_fp8_kernel());
  registry.add(cublaslt_fast_fp8_kernel());
  registry.add(cuda_dense_kernel());
  registry.add(cuda_packed_kernel());
  registry.add(cuda_expanded_kernel());
  registry.add(cuda_pruned_kernel());
  registry.add(cusparse_kernel());
  for (Kernel& kernel : cusparselt_kernels()) registry.add(std::move(kernel));
}

Kernel cuda_kernel(std::string name, std::string isa, InputType input, Takes takes,
                   std::function<std::string(const Leaf& leaf)> refuses) {
  Kernel kernel;
  kernel.name = std::move(name);
  kernel.device = "cuda";
  kernel.isa = std::move(isa);
  kernel.input = input;
  const DeviceInfo& info = cuda_device_info();
  if (!info.available) kernel.absent = info.reason;
  kernel.refuses = [takes, refuses = std::move(refuses)](const Leaf& leaf) -> std::string {
    if (!leaf.zero_points.empty() && !takes.zero_points) return "takes no zero points";
    if (!leaf.input_scales.empty() && !takes.input_scales) return "takes no input scales";
    return refuses(leaf);
  };
  return kernel;
}

}  // namespace lamina

// The kernels that run on GPUs: one line each.
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/kernels.hpp"

namespace lamina {

void register_cuda_kernels(Registry& registry) {
  registry.add(cublaslt_dense_kernel());
  registry.add(cublaslt_bf16_kernel());
  registry.add(cublaslt_int8_kernel());
  registry.add(cuda_weight_only_kernel());
}

std::string cuda_absence() {
  const DeviceInfo info = cuda_device_info();
  return info.available ? "" : info.reason;
}

std::string refuse_common(const Leaf& leaf) {
  if (!leaf.zero_points.empty()) return "takes no zero points";
  if (!leaf.input_scales.empty()) return "takes no input scales";
  if (leaf.pattern.kind != PatternKind::dense) return "takes no pruned weights";
  return "";
}

}  // namespace lamina

// What is registered: one line for each scheme, kernel and device. A function that main calls, because
// linkers drop static initialisers out of static libraries.
#include "kernels/compress/schemes.hpp"
#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/zero_points.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/registry.hpp"

namespace lamina {

void register_kernels(Registry& registry) {
  registry.add(dense_scheme());
  registry.add(int8_scheme());
  registry.add(int4_scheme());
  registry.add(fp8_scheme());
  registry.add(pruned_scheme());
  registry.add(lowrank_scheme());
  registry.add(sum_scheme());

  registry.add(openblas_kernel());
  registry.add(native_dense_kernel());
  registry.add(native_bf16_kernel());
  registry.add(native_fp8_kernel());
  registry.add(take_zero_points(native_int8_kernel()));
  registry.add(take_zero_points(native_int4_kernel()));
  registry.add(take_zero_points(native_int4_a8_kernel()));
  registry.add(native_24_kernel());
  registry.add(native_24_int8_kernel());
  registry.add(native_bitmap_kernel());
  registry.add(native_block_kernel());
  registry.add(csr_kernel());
  registry.add(onednn_kernel());
  registry.add(onednn_u8s8_kernel());
  registry.add(blis_kernel());
  registry.add(libxsmm_kernel());
  registry.add(reference_kernel());

  register_cuda_kernels(registry);

  registry.add(cpu_device_info());
  registry.add(cuda_device_info());
}

}  // namespace lamina

// The kernels for the CPU, one file each. Declared together so that register.cpp is the only place that lists
// them.
#pragma once

#include "kernels/registry.hpp"

namespace lamina {

Kernel openblas_kernel();
Kernel native_dense_kernel();
Kernel native_bf16_kernel();
Kernel native_fp8_kernel();
Kernel native_int8_kernel();
Kernel native_int4_kernel();
Kernel native_int4_a8_kernel();
Kernel native_24_kernel();
Kernel native_24_int8_kernel();
Kernel native_bitmap_kernel();
Kernel native_block_kernel();
Kernel csr_kernel();
// Peers that are optional: from cpu/ where CMake found the library, else from absent/.
Kernel onednn_kernel();
Kernel onednn_u8s8_kernel();
Kernel blis_kernel();
Kernel libxsmm_kernel();
Kernel reference_kernel();

// Model name and cores, as `lamina list` shows them.
DeviceInfo cpu_device_info();

}  // namespace lamina

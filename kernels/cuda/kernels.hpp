// The kernels for GPUs, one file each. Declared together so that register.cpp is the only place that lists
// them.
#pragma once

#include "kernels/registry.hpp"

namespace lamina {

Kernel cublaslt_dense_kernel();
Kernel cublaslt_bf16_kernel();
Kernel cublaslt_int8_kernel();
Kernel cuda_weight_only_kernel();

// Empty where there is a GPU, else that there is none: what `Kernel::absent` says.
std::string cuda_absence();

// What every kernel here leaves to others: empty, or the reason to refuse.
std::string refuse_common(const Leaf& leaf);

}  // namespace lamina

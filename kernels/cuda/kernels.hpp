// The kernels for GPUs, one file each. Declared together so that register.cpp is the only place that lists
// them.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/registry.hpp"

namespace lamina {

Kernel cublaslt_dense_kernel();
Kernel cublaslt_bf16_kernel();
Kernel cublaslt_fp16_kernel();
Kernel cublaslt_int8_kernel();
Kernel cublaslt_fp8_kernel();
Kernel cublaslt_fast_fp8_kernel();
Kernel cuda_dense_kernel();
Kernel cuda_packed_kernel();
Kernel cuda_expanded_kernel();
Kernel cuda_pruned_kernel();
Kernel cusparse_kernel();
// One for each type of weights, or where cuSPARSELt was not found one that says so.
std::vector<Kernel> cusparselt_kernels();

// What else than codes, scales and a mask a kernel reads.
struct Takes {
  bool zero_points = false, input_scales = false;
};
// What kernels for GPUs have alike: absent where there is no GPU, and they leave what is not in `takes` to
// others, beside what `refuses` says. `make` is left to fill.
Kernel cuda_kernel(std::string name, std::string isa, InputType input, Takes takes,
                   std::function<std::string(const Leaf& leaf)> refuses);
inline Kernel cuda_kernel(std::string name, std::string isa, InputType input,
                          std::function<std::string(const Leaf& leaf)> refuses) {
  return cuda_kernel(std::move(name), std::move(isa), input, Takes(), std::move(refuses));
}

}  // namespace lamina

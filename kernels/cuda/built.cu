#include "kernels/cuda/built.hpp"

namespace lamina {
namespace {

// All kernels are compiled for the same list: this one stands for them.
__global__ void any_kernel() {}

}  // namespace

Built built() {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, any_kernel);
  return {status, status == cudaSuccess ? attributes.ptxVersion : 0};
}

}  // namespace lamina

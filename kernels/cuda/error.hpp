// CUDA's and its libraries' return codes as exceptions. Host code only.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "kernels/device.hpp"

namespace lamina {

// Each throws DeviceError, "cuda: WHAT: the library's words; what to do", unless the call succeeded.
void check_cuda(cudaError_t status, const char* what);
void check_cublas(cublasStatus_t status, const char* what);
// After a kernel's launch: what is wrong with the launch itself.
inline void check_launch(const char* kernel) {
  check_cuda(cudaGetLastError(), kernel);
}

}  // namespace lamina

// CUDA's current device, as the kernels beside it use it.
#pragma once

#include <cuda_runtime.h>

#include "kernels/device.hpp"

namespace lamina {

inline cudaStream_t cuda_stream(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

struct CudaProperties {
  int multiprocessors = 0;
  int capability = 0;  // 90: compute capability 9.0
  int64_t cache_bytes = 0;
};
// Of the device that cuda_device() is; throws DeviceError where there is none.
const CudaProperties& cuda_properties();

}  // namespace lamina

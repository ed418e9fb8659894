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
  int64_t shared_bytes = 0;  // that a block of threads can have
  int64_t shared_of_multiprocessor = 0;
  // Whether a kernel may begin before the one in front of it has ended, by programmatic dependent launch:
  // this GPU can, and the program was built for one that can. Kernels made of older PTX do not wait.
  bool overlaps = false;
};
// Of the device that cuda_device() is; throws DeviceError where there is none.
const CudaProperties& cuda_properties();

}  // namespace lamina

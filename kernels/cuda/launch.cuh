// Launches of kernels that begin while the one before them ends.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/cuda_device.hpp"

namespace lamina {

// Launches a kernel that calls wait_for_previous() (ptx.cuh) before it reads what the kernel before it wrote:
// where the GPU can, its blocks start as that one's end. `cluster` blocks share their memory, from 2 on. What
// is wrong with the launch, check_launch() says afterwards.
template <class Work>
void launch_overlapped(void (*kernel)(Work), unsigned blocks, unsigned threads, size_t shared_bytes,
                       cudaStream_t stream, const Work& work, unsigned cluster = 1) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned used = 0;
  if (cuda_properties().overlaps) {
    attributes[used].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[used++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[used].id = cudaLaunchAttributeClusterDimension;
    attributes[used++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = used;
  cudaLaunchKernelEx(&config, kernel, work);
}

}  // namespace lamina

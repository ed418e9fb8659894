// Kernels that have one thread for each element, or for several a grid apart.
#pragma once

#include <cstdint>

namespace lamina {

inline constexpr int kElementThreads = 256;  // of a block

inline int blocks_for(int64_t count) {
  const int64_t blocks = (count + kElementThreads - 1) / kElementThreads;
  return static_cast<int>(blocks < 65535 * 8 ? blocks : 65535 * 8);
}

}  // namespace lamina

// Elements of this thread, by the grid's x.
#define LAMINA_FOR_EACH(i, count)                                               \
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < (count); \
       i += int64_t{gridDim.x} * blockDim.x)

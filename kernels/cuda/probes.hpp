// Kernels that move bytes and do nothing else: the device's limits, and its memory's poison.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "kernels/device.hpp"

namespace lamina {

// Puts on the stream: `count` copies of `word`.
void fill_words(uint32_t* to, uint32_t word, int64_t count, cudaStream_t stream);
// Random bits by a counter, never zeros, on which matrix units run faster: of `bits` 32 (float32), 16
// (bfloat16) or 8 (e4m3) as numbers in (−1, 1); of 0 as they come (int8). `bytes` is a multiple of 4.
void fill_random(void* to, int bits, int64_t bytes, uint32_t seed, cudaStream_t stream);
// Reads `bytes` (a multiple of 16); copies them (a graph's own copy of memory is slower: 2.7 against 3.8 TB/s
// on an H200); does nothing.
void read_all(const void* from, int64_t bytes, float* sum, cudaStream_t stream);
void copy_all(void* to, const void* from, int64_t bytes, cudaStream_t stream);
void do_nothing(cudaStream_t stream);

std::vector<DeviceProbe> cuda_probes(Device& device);

}  // namespace lamina

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/probes.hpp"

namespace lamina {
namespace {

constexpr int kThreads = 512;

__global__ void fill_words_kernel(uint32_t* to, uint32_t word, int64_t count) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads)
    to[i] = word;
}

__device__ uint32_t scramble(uint32_t x) {  // a 32-bit mix by multiplication and shifts
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

__global__ void fill_random_kernel(uint32_t* to, int bits, int64_t count, uint32_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const uint32_t r = scramble(static_cast<uint32_t>(i) * 2654435761u + seed);
    uint32_t word = r;                   // int8
    if (bits == 8) word &= 0xb7b7b7b7u;  // e4m3 of exponents −7 to 0
    if (bits == 32) word = (r & 0x80ffffffu) | 0x3e000000u;
    if (bits == 16) word = (r & 0x80ff80ffu) | 0x3e003e00u;
    to[i] = word;
  }
}

__device__ uint4 load_once(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* from, int64_t count, float* sum) {
  uint32_t all = 0;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = load_once(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) all ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += step) {
    const uint4 v = load_once(from + i);
    all ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (all == 0x12345678u) *sum = 1;  // seldom, but the compiler does not know
}

__global__ void __launch_bounds__(kThreads) copy_kernel(uint4* to, const uint4* from, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = load_once(from + i + j * step);
#pragma unroll
    for (int j = 0; j < 4; ++j) to[i + j * step] = v[j];
  }
  for (; i < count; i += step) to[i] = load_once(from + i);
}

__global__ void nothing_kernel() {}

int blocks() {
  return cuda_properties().multiprocessors * 4;
}

}  // namespace

void fill_words(uint32_t* to, uint32_t word, int64_t count, cudaStream_t stream) {
  fill_words_kernel<<<blocks(), kThreads, 0, stream>>>(to, word, count);
}

void fill_random(void* to, int bits, int64_t bytes, uint32_t seed, cudaStream_t stream) {
  fill_random_kernel<<<blocks(), kThreads, 0, stream>>>(static_cast<uint32_t*>(to), bits, bytes / 4, seed);
}

void read_all(const void* from, int64_t bytes, float* sum, cudaStream_t stream) {
  read_kernel<<<blocks(), kThreads, 0, stream>>>(static_cast<const uint4*>(from), bytes / 16, sum);
}

void copy_all(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  copy_kernel<<<blocks(), kThreads, 0, stream>>>(static_cast<uint4*>(to), static_cast<const uint4*>(from),
                                                 bytes / 16);
}

void do_nothing(cudaStream_t stream) {
  nothing_kernel<<<1, 32, 0, stream>>>();
}

}  // namespace lamina

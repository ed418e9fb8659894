#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/rounding.cuh"

namespace lamina {
namespace {

template <bool kHalf>
__global__ void round_kernel(const float* from, int64_t count, uint16_t* to) {
  LAMINA_FOR_EACH(i, count) to[i] = kHalf ? fp16_of(from[i]) : bf16_of(from[i]);
}
template <bool kHalf>
__global__ void round_fours_kernel(const float4* from, int64_t count, uint2* to) {
  const auto narrow = [](float value) { return uint32_t{kHalf ? fp16_of(value) : bf16_of(value)}; };
  LAMINA_FOR_EACH(i, count) {
    const float4 four = from[i];
    to[i] = {narrow(four.x) | narrow(four.y) << 16, narrow(four.z) | narrow(four.w) << 16};
  }
}

__global__ void widen_kernel(const uint16_t* from, int64_t count, float* to) {
  LAMINA_FOR_EACH(i, count) to[i] = __uint_as_float(uint32_t{from[i]} << 16);
}
__global__ void widen_fours_kernel(const uint2* from, int64_t count, float4* to) {
  LAMINA_FOR_EACH(i, count) {
    const uint2 four = from[i];
    to[i] = {__uint_as_float(four.x << 16), __uint_as_float(four.x & 0xffff0000u),
             __uint_as_float(four.y << 16), __uint_as_float(four.y & 0xffff0000u)};
  }
}

template <class In, class Out, int kShift>
__global__ void pad_kernel(const In* from, int64_t rows, int64_t cols, int64_t stride, Out* to) {
  LAMINA_FOR_EACH(i, rows * stride) {
    const int64_t row = i / stride, col = i % stride;
    to[i] = col < cols ? static_cast<Out>(from[row * cols + col] >> kShift) : Out{0};
  }
}

__global__ void divide_kernel(const uint16_t* from, int64_t rows, int64_t cols, int64_t stride,
                              const float* input_scales, uint16_t* to) {
  LAMINA_FOR_EACH(i, rows * stride) {
    const int64_t row = i / stride, col = i % stride;
    to[i] = col < cols ? static_cast<uint16_t>(divided_bf16(from[row * cols + col], input_scales[col]))
                       : uint16_t{0};
  }
}

__global__ void add_kernel(const float* x, int64_t count, float* y) {
  LAMINA_FOR_EACH(i, count) y[i] += x[i];
}
__global__ void add_fours_kernel(const float4* x, int64_t count, float4* y) {
  LAMINA_FOR_EACH(i, count) {
    const float4 a = x[i], b = y[i];
    y[i] = {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
  }
}

}  // namespace

void add_floats(const float* x, int64_t count, float* y, cudaStream_t stream) {
  if (count <= 0) return;
  if (count % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0)
    add_fours_kernel<<<blocks_for(count / 4), kElementThreads, 0, stream>>>(
        reinterpret_cast<const float4*>(x), count / 4, reinterpret_cast<float4*>(y));
  else
    add_kernel<<<blocks_for(count), kElementThreads, 0, stream>>>(x, count, y);
}

void divide_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, const float* input_scales,
                 void* to, cudaStream_t stream) {
  if (rows * stride == 0) return;
  divide_kernel<<<blocks_for(rows * stride), kElementThreads, 0, stream>>>(
      static_cast<const uint16_t*>(from), rows, cols, stride, input_scales, static_cast<uint16_t*>(to));
}

void round_activations(const float* from, int64_t count, bool half, void* to, cudaStream_t stream) {
  if (count == 0) return;
  if (count % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 &&
      reinterpret_cast<uintptr_t>(to) % 8 == 0) {
    const auto kernel = half ? round_fours_kernel<true> : round_fours_kernel<false>;
    kernel<<<blocks_for(count / 4), kElementThreads, 0, stream>>>(reinterpret_cast<const float4*>(from),
                                                                  count / 4, static_cast<uint2*>(to));
    return;
  }
  const auto kernel = half ? round_kernel<true> : round_kernel<false>;
  kernel<<<blocks_for(count), kElementThreads, 0, stream>>>(from, count, static_cast<uint16_t*>(to));
}

void widen_bf16(const void* from, int64_t count, float* to, cudaStream_t stream) {
  if (count == 0) return;
  if (count % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 8 == 0 &&
      reinterpret_cast<uintptr_t>(to) % 16 == 0)
    widen_fours_kernel<<<blocks_for(count / 4), kElementThreads, 0, stream>>>(
        static_cast<const uint2*>(from), count / 4, reinterpret_cast<float4*>(to));
  else
    widen_kernel<<<blocks_for(count), kElementThreads, 0, stream>>>(static_cast<const uint16_t*>(from), count,
                                                                    to);
}

void narrow_bf16(const float* from, int64_t rows, int64_t cols, int64_t stride, void* to,
                 cudaStream_t stream) {
  if (rows * stride == 0) return;
  pad_kernel<uint32_t, uint16_t, 16><<<blocks_for(rows * stride), kElementThreads, 0, stream>>>(
      reinterpret_cast<const uint32_t*>(from), rows, cols, stride, static_cast<uint16_t*>(to));
}

void pad_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, int64_t element_bytes, void* to,
              cudaStream_t stream) {
  if (rows * stride == 0) return;
  const int blocks = blocks_for(rows * stride);
  if (element_bytes == 1)
    pad_kernel<uint8_t, uint8_t, 0><<<blocks, kElementThreads, 0, stream>>>(
        static_cast<const uint8_t*>(from), rows, cols, stride, static_cast<uint8_t*>(to));
  else
    pad_kernel<uint16_t, uint16_t, 0><<<blocks, kElementThreads, 0, stream>>>(
        static_cast<const uint16_t*>(from), rows, cols, stride, static_cast<uint16_t*>(to));
}

}  // namespace lamina

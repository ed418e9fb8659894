#include <cuda_bf16.h>

#include "kernels/activations.hpp"
#include "kernels/cuda/convert.hpp"

namespace lamina {
namespace {

constexpr int kThreads = 256;

int blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < 65535 * 8 ? blocks : 65535 * 8);
}

// Elements of this thread, by the grid's x.
#define FOR_EACH(i, count)                                                      \
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < (count); \
       i += int64_t{gridDim.x} * blockDim.x)

// to_bfloat16 of float8.hpp, and what the rule takes for zero.
__device__ uint16_t bf16_of(float value) {
  const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
  if (fabsf(value) < kSmallestActivation) return 0;
  if (magnitude >= 0x7f7f8000u)
    return static_cast<uint16_t>(bits >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0u));
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

__global__ void round_bf16_kernel(const float* from, int64_t count, uint16_t* to) {
  FOR_EACH(i, count) to[i] = bf16_of(from[i]);
}

template <class In, class Out, int kShift>
__global__ void pad_kernel(const In* from, int64_t rows, int64_t cols, int64_t stride, Out* to) {
  FOR_EACH(i, rows * stride) {
    const int64_t row = i / stride, col = i % stride;
    to[i] = col < cols ? static_cast<Out>(from[row * cols + col] >> kShift) : Out{0};
  }
}

// One block a token. amax and codes by the rule's own arithmetic: float32, rounded to nearest even.
__global__ void __launch_bounds__(1024)
    quantize_int8_kernel(const __nv_bfloat16* x, int64_t cols, int64_t stride, int8_t* codes, float* scales) {
  x += blockIdx.x * cols;
  codes += blockIdx.x * stride;
  float amax = 0;
  const bool pairs = cols % 2 == 0;
  if (pairs) {
    const auto* two = reinterpret_cast<const __nv_bfloat162*>(x);
    for (int64_t i = threadIdx.x; i < cols / 2; i += blockDim.x) {
      const float2 v = __bfloat1622float2(two[i]);
      amax = fmaxf(amax, fmaxf(fabsf(v.x), fabsf(v.y)));
    }
  } else {
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
      amax = fmaxf(amax, fabsf(__bfloat162float(x[i])));
  }
  __shared__ float parts[32];
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = amax;
  __syncthreads();
  amax = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const bool zero = amax < kSmallestActivation;
  const float inverse = zero ? 0.0f : __fdiv_rn(127.0f, amax);
  const auto code = [=](float value) {
    return static_cast<int8_t>(fminf(fmaxf(rintf(__fmul_rn(value, inverse)), -127.0f), 127.0f));
  };
  if (pairs) {
    const auto* two = reinterpret_cast<const __nv_bfloat162*>(x);
    for (int64_t i = threadIdx.x; i < stride / 2; i += blockDim.x) {
      const float2 v = 2 * i < cols ? __bfloat1622float2(two[i]) : float2{0, 0};
      reinterpret_cast<char2*>(codes)[i] = {code(v.x), code(v.y)};
    }
  } else {
    for (int64_t i = threadIdx.x; i < stride; i += blockDim.x)
      codes[i] = i < cols ? code(__bfloat162float(x[i])) : int8_t{0};
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = zero ? 0.0f : __fdiv_rn(amax, 127.0f);
}

__global__ void scale_int32_kernel(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride,
                                   const float* scales, const float* token_scales, float* y) {
  for (int64_t token = blockIdx.y; token < tokens; token += gridDim.y) {
    const float own = token_scales[token];
    FOR_EACH(i, rows)
    y[token * rows + i] = static_cast<float>(sums[token * stride + i]) * (scales[i] * own);
  }
}

}  // namespace

void round_bf16(const float* from, int64_t count, void* to, cudaStream_t stream) {
  if (count == 0) return;
  round_bf16_kernel<<<blocks_for(count), kThreads, 0, stream>>>(from, count, static_cast<uint16_t*>(to));
}

void narrow_bf16(const float* from, int64_t rows, int64_t cols, int64_t stride, void* to,
                 cudaStream_t stream) {
  if (rows * stride == 0) return;
  pad_kernel<uint32_t, uint16_t, 16><<<blocks_for(rows * stride), kThreads, 0, stream>>>(
      reinterpret_cast<const uint32_t*>(from), rows, cols, stride, static_cast<uint16_t*>(to));
}

void pad_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, int64_t element_bytes, void* to,
              cudaStream_t stream) {
  if (rows * stride == 0) return;
  const int blocks = blocks_for(rows * stride);
  if (element_bytes == 1)
    pad_kernel<uint8_t, uint8_t, 0><<<blocks, kThreads, 0, stream>>>(static_cast<const uint8_t*>(from), rows,
                                                                     cols, stride, static_cast<uint8_t*>(to));
  else
    pad_kernel<uint16_t, uint16_t, 0><<<blocks, kThreads, 0, stream>>>(
        static_cast<const uint16_t*>(from), rows, cols, stride, static_cast<uint16_t*>(to));
}

void quantize_int8(const void* x, int64_t tokens, int64_t cols, int64_t stride, int8_t* codes, float* scales,
                   cudaStream_t stream) {
  quantize_int8_kernel<<<static_cast<unsigned>(tokens), 1024, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(x), cols, stride, codes, scales);
}

void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks_for(rows)),
                  static_cast<unsigned>(tokens < 65535 ? tokens : 65535));
  scale_int32_kernel<<<grid, kThreads, 0, stream>>>(sums, tokens, rows, stride, scales, token_scales, y);
}

}  // namespace lamina

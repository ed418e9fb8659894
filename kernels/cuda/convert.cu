#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

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

// float16_of_float of float8.hpp.
__device__ uint16_t fp16_of(float value) {
  const __half nearest = __float2half_rn(isfinite(value) ? fminf(fmaxf(value, -65504.0f), 65504.0f) : value);
  return __half_as_ushort(nearest);
}

template <bool kHalf>
__global__ void round_kernel(const float* from, int64_t count, uint16_t* to) {
  FOR_EACH(i, count) to[i] = kHalf ? fp16_of(from[i]) : bf16_of(from[i]);
}

template <class In, class Out, int kShift>
__global__ void pad_kernel(const In* from, int64_t rows, int64_t cols, int64_t stride, Out* to) {
  FOR_EACH(i, rows * stride) {
    const int64_t row = i / stride, col = i % stride;
    to[i] = col < cols ? static_cast<Out>(from[row * cols + col] >> kShift) : Out{0};
  }
}

// What x times its token's inverse scale becomes.
struct ToInt8 {
  static constexpr float kLargest = 127.0f;
  static __device__ uint8_t code(float scaled) {
    return static_cast<uint8_t>(static_cast<int8_t>(fminf(fmaxf(rintf(scaled), -127.0f), 127.0f)));
  }
};
struct ToFp8 {
  static constexpr float kLargest = 448.0f;
  static __device__ uint8_t code(float scaled) {
    return __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  }
};

// One block a token. amax and codes by the rule's own arithmetic: float32, rounded to nearest even.
template <class To>
__global__ void __launch_bounds__(1024)
    quantize_kernel(const __nv_bfloat16* x, int64_t cols, int64_t stride, uint8_t* codes, float* scales) {
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
  const float inverse = zero ? 0.0f : __fdiv_rn(To::kLargest, amax);
  const auto code = [=](float value) { return To::code(__fmul_rn(value, inverse)); };
  if (pairs) {
    const auto* two = reinterpret_cast<const __nv_bfloat162*>(x);
    for (int64_t i = threadIdx.x; i < stride / 2; i += blockDim.x) {
      const float2 v = 2 * i < cols ? __bfloat1622float2(two[i]) : float2{0, 0};
      reinterpret_cast<uchar2*>(codes)[i] = {code(v.x), code(v.y)};
    }
  } else {
    for (int64_t i = threadIdx.x; i < stride; i += blockDim.x)
      codes[i] = i < cols ? code(__bfloat162float(x[i])) : uint8_t{0};
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = zero ? 0.0f : __fdiv_rn(amax, To::kLargest);
}

template <class Sum>
__global__ void scale_kernel(const Sum* sums, int64_t tokens, int64_t rows, int64_t stride,
                             const float* scales, const float* token_scales, float* y) {
  for (int64_t token = blockIdx.y; token < tokens; token += gridDim.y) {
    const float own = token_scales != nullptr ? token_scales[token] : 1.0f;
    FOR_EACH(i, rows)
    y[token * rows + i] =
        static_cast<float>(sums[token * stride + i]) * ((scales != nullptr ? scales[i] : 1.0f) * own);
  }
}

}  // namespace

void round_activations(const float* from, int64_t count, bool half, void* to, cudaStream_t stream) {
  if (count == 0) return;
  const auto kernel = half ? round_kernel<true> : round_kernel<false>;
  kernel<<<blocks_for(count), kThreads, 0, stream>>>(from, count, static_cast<uint16_t*>(to));
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
  quantize_kernel<ToInt8><<<static_cast<unsigned>(tokens), 1024, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(x), cols, stride, reinterpret_cast<uint8_t*>(codes), scales);
}

void quantize_fp8(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes, float* scales,
                  cudaStream_t stream) {
  quantize_kernel<ToFp8><<<static_cast<unsigned>(tokens), 1024, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(x), cols, stride, static_cast<uint8_t*>(codes), scales);
}

namespace {

dim3 scale_grid(int64_t tokens, int64_t rows) {
  return {static_cast<unsigned>(blocks_for(rows)), static_cast<unsigned>(tokens < 65535 ? tokens : 65535)};
}

}  // namespace

void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, cudaStream_t stream) {
  scale_kernel<<<scale_grid(tokens, rows), kThreads, 0, stream>>>(sums, tokens, rows, stride, scales,
                                                                  token_scales, y);
}

void scale_float(const float* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, cudaStream_t stream) {
  scale_kernel<<<scale_grid(tokens, rows), kThreads, 0, stream>>>(sums, tokens, rows, stride, scales,
                                                                  token_scales, y);
}

}  // namespace lamina

// Activations to 8 bits before a product of codes, and its sums back to numbers behind it.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/activations.hpp"
#include "kernels/cuda/convert.hpp"

namespace lamina {
namespace {

constexpr int kThreads = 256;

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

__device__ float largest_of_block(float amax) {
  __shared__ float parts[32];
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = amax;
  __syncthreads();
  amax = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  return amax;
}

// A token's 16 bytes at a time, up to kPieces a thread, which wait in registers until its scale is known.
template <class To, int kPieces>
__global__ void __launch_bounds__(kThreads)
    quantize_pieces_kernel(const uint4* x, int pieces, int stride_pieces, uint2* codes, float* scales) {
  x += int64_t{blockIdx.x} * pieces;
  codes += int64_t{blockIdx.x} * stride_pieces;
  uint4 held[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int at = threadIdx.x + i * kThreads;
    held[i] = at < pieces ? x[at] : uint4{0, 0, 0, 0};
  }
  const auto two = [](uint32_t word) {
    return float2{__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  };
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kPieces; ++i)
    for (const uint32_t word : {held[i].x, held[i].y, held[i].z, held[i].w})
      amax = fmaxf(amax, fmaxf(fabsf(two(word).x), fabsf(two(word).y)));
  amax = largest_of_block(amax);
  const bool zero = amax < kSmallestActivation;
  const float inverse = zero ? 0.0f : __fdiv_rn(To::kLargest, amax);
  const auto four = [&](uint32_t first, uint32_t second) {
    const float2 a = two(first), b = two(second);
    return uint32_t{To::code(__fmul_rn(a.x, inverse))} | uint32_t{To::code(__fmul_rn(a.y, inverse))} << 8 |
           uint32_t{To::code(__fmul_rn(b.x, inverse))} << 16 |
           uint32_t{To::code(__fmul_rn(b.y, inverse))} << 24;
  };
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at < stride_pieces) codes[at] = {four(held[i].x, held[i].y), four(held[i].z, held[i].w)};
  }
  if (threadIdx.x == 0) scales[blockIdx.x] = zero ? 0.0f : __fdiv_rn(amax, To::kLargest);
}

// Any columns. One block a token. amax and codes by the rule's own arithmetic: float32, rounded to nearest
// even.
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
  amax = largest_of_block(amax);
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

template <class To>
void quantize(const void* x, int64_t tokens, int64_t cols, int64_t stride, uint8_t* codes, float* scales,
              cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tokens);
  const auto pieces = static_cast<int>(cols / 8), stride_pieces = static_cast<int>(stride / 8);
  const auto run = [&](auto kernel) {
    kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const uint4*>(x), pieces, stride_pieces,
                                            reinterpret_cast<uint2*>(codes), scales);
  };
  if (cols % 8 != 0 || stride_pieces > 16 * kThreads)
    quantize_kernel<To>
        <<<blocks, 1024, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), cols, stride, codes, scales);
  else if (stride_pieces <= 2 * kThreads)
    run(quantize_pieces_kernel<To, 2>);
  else if (stride_pieces <= 4 * kThreads)
    run(quantize_pieces_kernel<To, 4>);
  else if (stride_pieces <= 8 * kThreads)
    run(quantize_pieces_kernel<To, 8>);
  else
    run(quantize_pieces_kernel<To, 16>);
}

__device__ float4 floats(const float4& v) {
  return v;
}
__device__ float4 floats(const int4& v) {
  return {static_cast<float>(v.x), static_cast<float>(v.y), static_cast<float>(v.z), static_cast<float>(v.w)};
}

constexpr int kScaledTokens = 8;  // of a thread, whose loads are on the way together

// Four rows a thread.
template <class Four>
__global__ void __launch_bounds__(kThreads)
    scale_fours_kernel(const Four* sums, int tokens, int fours, int stride, const float4* scales,
                       const float* token_scales, float4* y, int y_stride) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= fours) return;
  const float4 scale = scales != nullptr ? scales[at] : float4{1, 1, 1, 1};
#pragma unroll
  for (int i = 0; i < kScaledTokens; ++i) {
    const int token = blockIdx.y * kScaledTokens + i;
    if (token >= tokens) break;
    const float4 sum = floats(__ldcs(sums + int64_t{token} * stride + at));
    const float own = token_scales != nullptr ? token_scales[token] : 1.0f;
    __stcs(y + int64_t{token} * y_stride + at, float4{sum.x * (scale.x * own), sum.y * (scale.y * own),
                                                      sum.z * (scale.z * own), sum.w * (scale.w * own)});
  }
}

template <class Sum>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const Sum* sums, int tokens, int rows, int stride, const float* scales,
                 const float* token_scales, float* y, int y_stride) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= rows) return;
  const float scale = scales != nullptr ? scales[at] : 1.0f;
  for (int i = 0; i < kScaledTokens; ++i) {
    const int token = blockIdx.y * kScaledTokens + i;
    if (token >= tokens) break;
    const float own = token_scales != nullptr ? token_scales[token] : 1.0f;
    y[int64_t{token} * y_stride + at] =
        static_cast<float>(sums[int64_t{token} * stride + at]) * (scale * own);
  }
}

template <class Four, class Sum>
void scale(const Sum* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
           const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream) {
  // The grid's second edge is at most 65535.
  constexpr int64_t kTokens = 65535 * kScaledTokens;
  for (int64_t token = 0; token < tokens; token += kTokens) {
    const auto some = static_cast<int>(std::min(tokens - token, kTokens));
    const bool fours =
        rows % 4 == 0 && stride % 4 == 0 && y_stride % 4 == 0 && reinterpret_cast<uintptr_t>(y) % 16 == 0;
    const int64_t across = fours ? rows / 4 : rows;
    const dim3 grid(static_cast<unsigned>((across + kThreads - 1) / kThreads),
                    static_cast<unsigned>((some + kScaledTokens - 1) / kScaledTokens));
    const Sum* const from = sums + token * stride;
    const float* const own = token_scales != nullptr ? token_scales + token : nullptr;
    float* const to = y + token * y_stride;
    if (fours)
      scale_fours_kernel<<<grid, kThreads, 0, stream>>>(
          reinterpret_cast<const Four*>(from), some, static_cast<int>(across), static_cast<int>(stride / 4),
          reinterpret_cast<const float4*>(scales), own, reinterpret_cast<float4*>(to),
          static_cast<int>(y_stride / 4));
    else
      scale_kernel<<<grid, kThreads, 0, stream>>>(from, some, static_cast<int>(rows),
                                                  static_cast<int>(stride), scales, own, to,
                                                  static_cast<int>(y_stride));
  }
}

}  // namespace

void quantize_int8(const void* x, int64_t tokens, int64_t cols, int64_t stride, int8_t* codes, float* scales,
                   cudaStream_t stream) {
  quantize<ToInt8>(x, tokens, cols, stride, reinterpret_cast<uint8_t*>(codes), scales, stream);
}

void quantize_fp8(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes, float* scales,
                  cudaStream_t stream) {
  quantize<ToFp8>(x, tokens, cols, stride, static_cast<uint8_t*>(codes), scales, stream);
}

void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream) {
  scale<int4>(sums, tokens, rows, stride, scales, token_scales, y, y_stride, stream);
}

void scale_float(const float* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream) {
  scale<float4>(sums, tokens, rows, stride, scales, token_scales, y, y_stride, stream);
}

}  // namespace lamina

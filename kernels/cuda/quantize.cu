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
  using Code = uint8_t;
  static constexpr float kLargest = 127.0f;
  static __device__ float nearest(float scaled) { return fminf(fmaxf(rintf(scaled), -127.0f), 127.0f); }
  static __device__ uint32_t code(float scaled) {
    return static_cast<uint32_t>(static_cast<int>(nearest(scaled))) & 255u;
  }
  static __device__ int value(uint32_t code) { return static_cast<int8_t>(code); }
};
// The numbers of ToInt8 in bfloat16: the upper half of float32 holds 8 bits.
struct ToInt8Bf16 {
  using Code = uint16_t;
  static constexpr float kLargest = 127.0f;
  static __device__ uint32_t code(float scaled) { return __float_as_uint(ToInt8::nearest(scaled)) >> 16; }
  static __device__ int value(uint32_t code) { return static_cast<int>(__uint_as_float(code << 16)); }
};
struct ToFp8 {
  using Code = uint8_t;
  static constexpr float kLargest = 448.0f;
  static __device__ uint32_t code(float scaled) {
    return __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  }
  static __device__ int value(uint32_t) { return 0; }
};

// So that one that is no number is not lost in a maximum, infinite.
__device__ float magnitude_of(float x) {
  return isnan(x) ? INFINITY : fabsf(x);
}

__device__ float largest_of_block(float amax) {
  __shared__ float parts[32];
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = amax;
  __syncthreads();
  amax = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  return amax;
}

// Adds up over the block; of its first thread.
__device__ int sum_of_block(int sum) {
  __shared__ int parts[32];
  sum = __reduce_add_sync(~0u, sum);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  return threadIdx.x < 32 ? __reduce_add_sync(~0u, threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0)
                          : 0;
}

template <class To>
struct Codes {
  typename To::Code* codes;
  float* scales;
  QuantizeExtras extras;

  // Of a block's token, whose largest magnitude is amax and whose codes a thread has added up to `sum`.
  __device__ void finish(float amax, int sum) const {
    if (extras.code_sums != nullptr) {
      sum = sum_of_block(sum);
      if (threadIdx.x == 0) extras.code_sums[blockIdx.x] = sum;
    }
    if (threadIdx.x == 0)
      scales[blockIdx.x] = isinf(amax)                  ? NAN
                           : amax < kSmallestActivation ? 0.0f
                                                        : __fdiv_rn(amax, To::kLargest);
  }
};
template <class To>
__device__ float inverse_of(float amax) {
  return amax < kSmallestActivation ? 0.0f : __fdiv_rn(To::kLargest, amax);
}

// A token's 16 bytes at a time, up to kPieces a thread, which wait in registers until its scale is known.
template <class To, int kPieces, bool kDivides>
__global__ void __launch_bounds__(kThreads)
    quantize_pieces_kernel(const uint4* x, int pieces, int stride_pieces, const Codes<To> to) {
  constexpr int kWords = sizeof(typename To::Code) * 2;  // of a piece's codes
  x += int64_t{blockIdx.x} * pieces;
  uint4 held[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int at = threadIdx.x + i * kThreads;
    held[i] = at < pieces ? x[at] : uint4{0, 0, 0, 0};
  }
  const auto numbers = [&](int i, float* number) {
    const uint32_t words[4] = {held[i].x, held[i].y, held[i].z, held[i].w};
    const int at = threadIdx.x + i * kThreads;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      number[2 * w] = __uint_as_float(words[w] << 16);
      number[2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
    }
    if (kDivides && at < pieces)
#pragma unroll
      for (int e = 0; e < 8; ++e)
        number[e] = __fdiv_rn(number[e], __ldg(to.extras.input_scales + 8 * at + e));
  };
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    float number[8];
    numbers(i, number);
#pragma unroll
    for (const float each : number) amax = fmaxf(amax, magnitude_of(each));
  }
  amax = largest_of_block(amax);
  const float inverse = inverse_of<To>(amax);
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at >= stride_pieces) continue;
    float number[8];
    numbers(i, number);
    uint32_t words[kWords] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const uint32_t code = To::code(__fmul_rn(number[e], inverse));
      sum += To::value(code);
      words[e * kWords / 8] |= code << (e % (8 / kWords) * (32 * kWords / 8));
    }
    auto* const own = to.codes + (int64_t{blockIdx.x} * stride_pieces + at) * 8;
    if constexpr (kWords == 2)
      *reinterpret_cast<uint2*>(own) = {words[0], words[1]};
    else
      *reinterpret_cast<uint4*>(own) = {words[0], words[1], words[2], words[3]};
  }
  to.finish(amax, sum);
}

// Any columns. One block a token. amax and codes by the rule's own arithmetic: float32, rounded to nearest
// even.
template <class To>
__global__ void __launch_bounds__(1024)
    quantize_kernel(const __nv_bfloat16* x, int64_t cols, int64_t stride, const Codes<To> to) {
  x += blockIdx.x * cols;
  auto* const codes = to.codes + blockIdx.x * stride;
  const auto number = [&](int64_t i) {
    const float value = __bfloat162float(x[i]);
    return to.extras.input_scales != nullptr ? __fdiv_rn(value, to.extras.input_scales[i]) : value;
  };
  float amax = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) amax = fmaxf(amax, magnitude_of(number(i)));
  amax = largest_of_block(amax);
  const float inverse = inverse_of<To>(amax);
  int sum = 0;
  for (int64_t i = threadIdx.x; i < stride; i += blockDim.x) {
    const uint32_t code = i < cols ? To::code(__fmul_rn(number(i), inverse)) : 0;
    sum += To::value(code);
    codes[i] = static_cast<typename To::Code>(code);
  }
  to.finish(amax, sum);
}

template <class To>
void quantize(const void* x, int64_t tokens, int64_t cols, int64_t stride, const Codes<To>& to,
              cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(tokens);
  const auto pieces = static_cast<int>(cols / 8), stride_pieces = static_cast<int>(stride / 8);
  const auto run = [&]<int kPieces>() {
    const auto kernel = to.extras.input_scales != nullptr ? quantize_pieces_kernel<To, kPieces, true>
                                                          : quantize_pieces_kernel<To, kPieces, false>;
    kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const uint4*>(x), pieces, stride_pieces, to);
  };
  if (cols % 8 != 0 || stride % 8 != 0 || stride_pieces > 32 * kThreads)
    quantize_kernel<To><<<blocks, 1024, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), cols, stride, to);
  else if (stride_pieces <= 2 * kThreads)
    run.template operator()<2>();
  else if (stride_pieces <= 4 * kThreads)
    run.template operator()<4>();
  else if (stride_pieces <= 8 * kThreads)
    run.template operator()<8>();
  else if (stride_pieces <= 16 * kThreads)
    run.template operator()<16>();
  else
    run.template operator()<32>();
}

// A sum less a zero point times the token's sum of codes; both are near what 32 bits hold.
__device__ float less(float sum, int32_t, int32_t) {
  return sum;
}
__device__ float less(int32_t sum, int32_t zero, int32_t code_sum) {
  return static_cast<float>(sum - int64_t{zero} * code_sum);
}

constexpr int kScaledTokens = 8;  // of a thread, whose loads are on the way together

// Four rows a thread.
template <class Four>
__global__ void __launch_bounds__(kThreads)
    scale_fours_kernel(const Four* sums, int tokens, int fours, int stride, const float4* scales,
                       const float* token_scales, float4* y, int y_stride, const ZeroPoints zeros) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= fours) return;
  const float4 scale = scales != nullptr ? scales[at] : float4{1, 1, 1, 1};
  const int4 zero = zeros.rows != nullptr ? reinterpret_cast<const int4*>(zeros.rows)[at] : int4{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kScaledTokens; ++i) {
    const int token = blockIdx.y * kScaledTokens + i;
    if (token >= tokens) break;
    const Four sum = __ldcs(sums + int64_t{token} * stride + at);
    const float own = token_scales != nullptr ? token_scales[token] : 1.0f;
    const int32_t codes = zeros.rows != nullptr ? zeros.code_sums[token] : 0;
    __stcs(
        y + int64_t{token} * y_stride + at,
        float4{less(sum.x, zero.x, codes) * (scale.x * own), less(sum.y, zero.y, codes) * (scale.y * own),
               less(sum.z, zero.z, codes) * (scale.z * own), less(sum.w, zero.w, codes) * (scale.w * own)});
  }
}

template <class Sum>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const Sum* sums, int tokens, int rows, int stride, const float* scales,
                 const float* token_scales, float* y, int y_stride, const ZeroPoints zeros) {
  const int at = blockIdx.x * kThreads + threadIdx.x;
  if (at >= rows) return;
  const float scale = scales != nullptr ? scales[at] : 1.0f;
  const int32_t zero = zeros.rows != nullptr ? zeros.rows[at] : 0;
  for (int i = 0; i < kScaledTokens; ++i) {
    const int token = blockIdx.y * kScaledTokens + i;
    if (token >= tokens) break;
    const float own = token_scales != nullptr ? token_scales[token] : 1.0f;
    const int32_t codes = zeros.rows != nullptr ? zeros.code_sums[token] : 0;
    y[int64_t{token} * y_stride + at] = less(sums[int64_t{token} * stride + at], zero, codes) * (scale * own);
  }
}

template <class Four, class Sum>
void scale(const Sum* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
           const float* token_scales, float* y, int64_t y_stride, const ZeroPoints& all_zeros,
           cudaStream_t stream) {
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
    const ZeroPoints zeros{all_zeros.rows, all_zeros.rows != nullptr ? all_zeros.code_sums + token : nullptr};
    if (fours)
      scale_fours_kernel<<<grid, kThreads, 0, stream>>>(
          reinterpret_cast<const Four*>(from), some, static_cast<int>(across), static_cast<int>(stride / 4),
          reinterpret_cast<const float4*>(scales), own, reinterpret_cast<float4*>(to),
          static_cast<int>(y_stride / 4), zeros);
    else
      scale_kernel<<<grid, kThreads, 0, stream>>>(from, some, static_cast<int>(rows),
                                                  static_cast<int>(stride), scales, own, to,
                                                  static_cast<int>(y_stride), zeros);
  }
}

}  // namespace

void quantize_int8(const void* x, int64_t tokens, int64_t cols, int64_t stride, int8_t* codes, float* scales,
                   cudaStream_t stream, const QuantizeExtras& extras) {
  quantize<ToInt8>(x, tokens, cols, stride, {reinterpret_cast<uint8_t*>(codes), scales, extras}, stream);
}

void quantize_int8_bf16(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes,
                        float* scales, cudaStream_t stream, const QuantizeExtras& extras) {
  quantize<ToInt8Bf16>(x, tokens, cols, stride, {static_cast<uint16_t*>(codes), scales, extras}, stream);
}

void quantize_fp8(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes, float* scales,
                  cudaStream_t stream, const QuantizeExtras& extras) {
  quantize<ToFp8>(x, tokens, cols, stride, {static_cast<uint8_t*>(codes), scales, extras}, stream);
}

void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream,
                 const ZeroPoints& zeros) {
  scale<int4>(sums, tokens, rows, stride, scales, token_scales, y, y_stride, zeros, stream);
}

void scale_float(const float* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream) {
  scale<float4>(sums, tokens, rows, stride, scales, token_scales, y, y_stride, {}, stream);
}

}  // namespace lamina

// What a warp does with a chunk: activations to registers, codes widened beside them, both to the tensor
// cores.
#pragma once

#include "kernels/cuda/decode_formats.cuh"
#include "kernels/cuda/ptx.cuh"

namespace lamina {
namespace {

__device__ __forceinline__ void add(float4& sum, const float4& other) {
  sum.x += other.x;
  sum.y += other.y;
  sum.z += other.z;
  sum.w += other.w;
}

// Four lanes' words, transposed: lane t's word j becomes lane j's word t.
__device__ __forceinline__ uint4 transpose_quad(const uint4& v, int t) {
  const bool odd = (t & 1) != 0, high = (t & 2) != 0;
  const uint32_t a = __shfl_xor_sync(~0u, odd ? v.x : v.y, 1), b = __shfl_xor_sync(~0u, odd ? v.z : v.w, 1);
  const uint4 u = {odd ? a : v.x, odd ? v.y : a, odd ? b : v.z, odd ? v.w : b};
  const uint32_t c = __shfl_xor_sync(~0u, high ? u.x : u.z, 2), d = __shfl_xor_sync(~0u, high ? u.y : u.w, 2);
  return {high ? c : u.x, high ? d : u.y, high ? u.z : c, high ? u.w : d};
}

// A lane's activations of a part's columns. Of dense weights words 2s and 2s + 1 are step s's, of 2:4 ones
// piece s is.
template <class F, int kTokenTiles>
__device__ __forceinline__ void load_x(uint4 (&x)[kTokenTiles][kXPieces<F>], const uint8_t* from_x,
                                       int64_t stride, int tokens, int64_t column, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int token = n * 8 + g;
    const uint8_t* from = from_x + token * stride + 2 * (column + 8 * t);
#pragma unroll
    for (int j = 0; j < kXPieces<F>; ++j)
      x[n][j] = token < tokens ? __ldg(reinterpret_cast<const uint4*>(from + 64 * j)) : uint4{0, 0, 0, 0};
  }
  if constexpr (F::kSparse) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int j = 0; j < kXPieces<F>; ++j) x[n][j] = transpose_quad(x[n][j], t);
  }
}

// Of steps whose columns, in units of 16, are named: two of each tile of rows.
template <int kTokenTiles>
__device__ __forceinline__ void load_named_x(uint4 (&x)[kTokenTiles][kTiles], const uint8_t* from_x,
                                             int64_t stride, int tokens, const uint2& columns, int lane) {
  const uint32_t named[kTiles] = {columns.x, columns.y};
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const int token = n * 8 + lane / 4;
    const uint8_t* const from = from_x + token * stride + lane % 4 * 8;
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      uint2 two[2] = {};
#pragma unroll
      for (int s = 0; s < 2; ++s)
        if (token < tokens)
          two[s] = __ldg(
              reinterpret_cast<const uint2*>(from + (s == 0 ? named[r] & 0xffffu : named[r] >> 16) * 32));
      x[n][r] = {two[0].x, two[0].y, two[1].x, two[1].y};
    }
  }
}

// The next weight of a lane, 0 where its bit is: `at` walks its values.
__device__ __forceinline__ uint32_t next_value(uint32_t bits, int bit, uint32_t& at) {
  uint32_t value;
  asm volatile(
      "{\n.reg .pred p;\n.reg .b16 v;\n.reg .b32 b;\nand.b32 b, %2, %3;\nsetp.ne.u32 p, b, 0;\nmov.b16 v, "
      "0;\n"
      "@p ld.shared.u16 v, [%1];\n@p add.u32 %1, %1, 64;\ncvt.u32.u16 %0, v;\n}\n"
      : "=r"(value), "+r"(at)
      : "r"(bits), "r"(1u << bit));
  return value;
}

// sums += a part of a chunk of a bitmap; parts come in order.
template <int kTokenTiles>
__device__ __forceinline__ void multiply_bitmap(float (&sums)[kTiles][kTokenTiles][4], const uint4& bitmap,
                                                const uint4 (&x)[kTokenTiles][kXPieces<Bitmap>], int part,
                                                uint32_t& at) {
  const uint32_t words[4] = {bitmap.x, bitmap.y, bitmap.z, bitmap.w};
#pragma unroll
  for (int r = 0; r < kTiles; ++r) {
    float partial[kTokenTiles][4];
#pragma unroll
    for (int s = 0; s < Bitmap::kPartSteps; ++s) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t low = next_value(words[part * 2 + r], s * 8 + i * 2, at);
        a[i] = low | next_value(words[part * 2 + r], s * 8 + i * 2 + 1, at) << 16;
      }
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const uint4 v = x[n][s / 2];
        const uint32_t b0 = s % 2 == 0 ? v.x : v.z, b1 = s % 2 == 0 ? v.y : v.w;
        s == 0 ? multiply_first(partial[n], a, b0, b1) : multiply(partial[n], a, b0, b1);
      }
    }
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[r][n][i] += partial[n][i];
  }
}

// sums += a part of a chunk by its activations.
template <class F, int kTokenTiles>
__device__ __forceinline__ void multiply_part(float (&sums)[kTiles][kTokenTiles][4], const uint8_t* chunk,
                                              const uint4 (&x)[kTokenTiles][kXPieces<F>], int part,
                                              int lane) {
  // Steps after which sums are scaled.
  constexpr int kScaleSteps = F::kGroup / 16 < F::kPartSteps ? F::kGroup / 16 : F::kPartSteps;
#pragma unroll
  for (int r = 0; r < kTiles; ++r) {
    float partial[kTokenTiles][4];
    uint2 zeros = {0, 0};
#pragma unroll
    for (int s = 0; s < F::kPartSteps; ++s) {
      const int step = part * F::kPartSteps + s, word = step * F::kStepWords;
      const uint4 words = *reinterpret_cast<const uint4*>(chunk + ((r * 2 + word / 4) * 32 + lane) * 16);
      const uint32_t all[4] = {words.x, words.y, words.z, words.w};
      uint32_t a[4];
      if (F::kZeros && s % kScaleSteps == 0) zeros = zeros_of<F>(chunk, step * 16 / F::kGroup, lane / 4, r);
      F::widen(all + s * F::kStepWords % 4, a, zeros);
      if constexpr (F::kSparse) {
        const uint32_t meta = *reinterpret_cast<const uint32_t*>(chunk + kMetaAt<F> + (step * 32 + lane) * 4);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          if (s % kScaleSteps == 0)
#pragma unroll
            for (float& value : partial[n]) value = 0;
          r == 0 ? multiply_24<0>(partial[n], a, x[n][s], meta)
                 : multiply_24<1>(partial[n], a, x[n][s], meta);
        }
      } else {
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const uint4 v = x[n][F::kIndexed ? r : s / 2];
          const uint32_t b0 = s % 2 == 0 ? v.x : v.z, b1 = s % 2 == 0 ? v.y : v.w;
          s % kScaleSteps == 0 ? multiply_first(partial[n], a, b0, b1) : multiply(partial[n], a, b0, b1);
        }
      }
      if ((s + 1) % kScaleSteps != 0) continue;
      float2 scale = {1, 1};
      if constexpr (F::kGrouped) scale = scales_of<F>(chunk, step * 16 / F::kGroup, lane / 4, r);
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        sums[r][n][0] += scale.x * partial[n][0];
        sums[r][n][1] += scale.x * partial[n][1];
        sums[r][n][2] += scale.y * partial[n][2];
        sums[r][n][3] += scale.y * partial[n][3];
      }
    }
  }
}

}  // namespace
}  // namespace lamina

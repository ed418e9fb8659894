// How each format's codes are packed, and how they become the A fragments of mma.m16n8k16: 4 registers of 2
// bfloat16 each.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/decode.hpp"

namespace lamina {
namespace {

// (a & mask) | bits, one instruction.
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
}

__device__ __forceinline__ __nv_bfloat162 as_bf16(uint32_t bits) {
  return *reinterpret_cast<__nv_bfloat162*>(&bits);
}
__device__ __forceinline__ uint32_t as_bits(__nv_bfloat162 value) {
  return *reinterpret_cast<uint32_t*>(&value);
}
__device__ __forceinline__ uint32_t minus(uint32_t a, uint32_t b) {
  return as_bits(__hsub2(as_bf16(a), as_bf16(b)));
}

// kCount neighbours of a row, from a column that is a multiple of as many on. They go out of the L2 first:
// what is written so is larger, and writing it took up to 1.6 times as long when they stayed as others do.
template <int kCount>
__device__ __forceinline__ void write_neighbours(const DecodeLayout& layout, uint16_t* to, int64_t row,
                                                 int64_t col, const uint32_t (&words)[kCount / 2]) {
  if (row >= layout.rows || col >= layout.cols) return;
  uint16_t* const out = to + row * layout.cols + col;
  if (layout.cols % kCount == 0) {
    if constexpr (kCount == 8)
      __stcs(reinterpret_cast<uint4*>(out), uint4{words[0], words[1], words[2], words[3]});
    else
      __stcs(reinterpret_cast<uint2*>(out), uint2{words[0], words[1]});
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (col + i < layout.cols) out[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
}

// What most formats are not.
struct Plain {
  static constexpr bool kGrouped = false;    // scales a group lie behind a chunk's codes
  static constexpr bool kZeros = false;      // and zero points behind them
  static constexpr bool kRowScales = false;  // a scale a row comes last
  static constexpr bool kSparse = false;     // 2 of every 4 columns, for mma.sp
  static constexpr bool kBitmap = false;     // chunks as long as what is kept
  static constexpr bool kIndexed = false;    // steps of 16 columns each that are named beside the weights
};

// A word holds 8 nibbles, code + 8: each of register i's two weights in 4 bits of a half, so that a shift
// brings them to the upper bits of bfloat16's fraction, where behind the bits of 16 a nibble is 16 + itself,
// exactly. The last register's lie across the halves' ends: a rotation brings them. What is taken from it is
// 24, or 24 and the zero point of the group.
template <int kGroup_, bool kZeroPoints = false>
struct Int4 : Plain {
  static constexpr int kGroup = kGroup_;
  static constexpr bool kZeros = kZeroPoints;
  static constexpr int kChunkCols = 128;
  static constexpr int kStepWords = 1;  // of a lane, for 16 columns of 16 rows
  static constexpr int kSteps = 8;      // of a chunk
  static constexpr int kPartSteps = 4;  // whose activations are loaded together
  static constexpr bool kGrouped = true;
  using Word = int8_t;  // as codes come
  __device__ static uint32_t stored(Word code) { return static_cast<uint32_t>(code + 8) & 15u; }
  __device__ static constexpr int place(int i, int e) { return 3 + 4 * i + 16 * e; }
  // `zeros` of the registers' rows: of 0 and 2, and 8 below them of 1 and 3.
  __device__ static void widen(const uint32_t* words, uint32_t* a, const uint2& zeros) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      a[i] = minus(and_or(i < 3 ? words[0] >> (4 * i) : __funnelshift_r(words[0], words[0], 12), 0x00780078u,
                          0x41804180u),
                   !kZeros      ? 0x41c041c0u
                   : i % 2 == 0 ? zeros.x
                                : zeros.y);
  }
};

// A word holds 4 bytes: numbers 0 and 2 one register's weights, 1 and 3 the next one's. The low 7 bits behind
// the bits of 128, less 128 or, where the sign is set, 256.
struct Int8 : Plain {
  static constexpr int kGroup = 64;
  static constexpr int kChunkCols = 64;
  static constexpr int kStepWords = 2;
  static constexpr int kSteps = 4, kPartSteps = 4;
  static constexpr bool kRowScales = true;
  using Word = int8_t;
  __device__ static uint32_t stored(Word code) { return static_cast<uint32_t>(code) & 255u; }
  __device__ static constexpr int place(int i, int e) { return 8 * (i + 2 * e); }
  __device__ static uint32_t pair(uint32_t word) {
    return minus(and_or(word, 0x007f007fu, 0x43004300u), and_or(word, 0x00800080u, 0x43004300u));
  }
  __device__ static void widen(const uint32_t* words, uint32_t* a, const uint2&) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[2 * i] = pair(words[i]);
      a[2 * i + 1] = pair(words[i] >> 8);
    }
  }
};

// The same places. e4m3's bits, moved to where bfloat16 has its exponent, are the number times 2⁻¹²⁰,
// subnormal ones too.
struct Fp8 : Plain {
  static constexpr int kGroup = 64;
  static constexpr int kChunkCols = 64;
  static constexpr int kStepWords = 2;
  static constexpr int kSteps = 4, kPartSteps = 4;
  static constexpr bool kRowScales = true;
  using Word = int8_t;
  __device__ static uint32_t stored(Word code) { return static_cast<uint32_t>(code) & 255u; }
  __device__ static constexpr int place(int i, int e) { return 8 * (i + 2 * e); }
  __device__ static uint32_t pair(uint32_t magnitude, uint32_t sign) {
    return as_bits(
        __hmul2(as_bf16(and_or(magnitude, 0x07f007f0u, sign & 0x80008000u)), as_bf16(0x7b807b80u)));
  }
  __device__ static void widen(const uint32_t* words, uint32_t* a, const uint2&) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[2 * i] = pair(words[i] << 4, words[i] << 8);
      a[2 * i + 1] = pair(words[i] >> 4, words[i]);
    }
  }
};

// Values as they are.
struct Bf16 : Plain {
  static constexpr int kGroup = 32;
  static constexpr int kChunkCols = 32;
  static constexpr int kStepWords = 4;
  static constexpr int kSteps = 2, kPartSteps = 2;
  using Word = uint16_t;
  __device__ static uint32_t stored(Word value) { return value; }
  __device__ static constexpr int place(int, int e) { return 16 * e; }
  __device__ static void widen(const uint32_t* words, uint32_t* a, const uint2&) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = words[i];
  }
};

// 2 of every 4 columns, stored as V stores columns: of twice as many, a step being 32. A group of V's is of
// what is kept. Behind codes and scales lies a word a lane and step that says which are kept, as mma.sp reads
// it.
template <class V>
struct Sparse24 : V {
  using Values = V;
  static constexpr int kChunkCols = 2 * V::kChunkCols;
  static constexpr bool kSparse = true;
};

// The kept of any pattern, as they are: a lane's weights of a chunk in the order of its registers, its bits
// in 16 bytes, and behind all lanes' bits their values in rows of 32, as many as the lane with most has.
struct Bitmap : Plain {
  static constexpr bool kBitmap = true;
  static constexpr int kGroup = 64;
  static constexpr int kChunkCols = 128;
  static constexpr int kSteps = 8, kPartSteps = 4;
  static constexpr int kBitBytes = 512, kValueBytes = 64;  // of all lanes, and of a row of values
};

// 16 columns by 16 rows, those that are kept.
struct Blocks : Bf16 {
  static constexpr bool kIndexed = true;
};

constexpr int kTiles = 2;                // of 16 rows, that a warp holds side by side
constexpr int kStripRows = 16 * kTiles;  // a warp's rows
constexpr int kRowWarps = 4;             // strips of a block; they read the same activations
constexpr int kBlockRows = kStripRows * kRowWarps;
constexpr int kCodeBytes = kTiles * 1024;  // of a chunk

// A word's bits, from a place on, round and round.
__device__ __forceinline__ uint32_t at_place(uint32_t bits, int place) {
  return __funnelshift_l(bits, bits, place);
}

template <class F>
constexpr int kGroups = F::kGrouped ? F::kSteps * 16 / F::kGroup : 0;  // of a chunk
template <class F>
constexpr int kZerosAt = kCodeBytes + kGroups<F>* kStripRows * 4;
template <class F>
constexpr int kMetaAt = kZerosAt<F> + (F::kZeros ? kGroups<F> * kStripRows : 0);
template <class F>
constexpr int kChunkBytes = kMetaAt<F> + (F::kSparse ? F::kSteps * 128 : 0);

// A zero point's byte: the lower one of 24 + itself in bfloat16, whose upper one is 0x41.
__device__ __forceinline__ uint8_t stored_zero(int zero) {
  return static_cast<uint8_t>(0x80 | (zero + 8) << 3);
}
// What widen() wants of a group of a chunk, for row `row` of 8 and the one 8 below of a tile.
template <class F>
__device__ __forceinline__ uint2 zeros_of(const uint8_t* chunk, int group, int row, int tile) {
  if constexpr (!F::kZeros) return {0, 0};
  const uint32_t two =
      *reinterpret_cast<const uint16_t*>(chunk + kZerosAt<F> + ((group * 8 + row) * kTiles + tile) * 2);
  return {__byte_perm(two, 0x41, 0x4040), __byte_perm(two, 0x41, 0x4141)};
}
// Its scales, likewise.
template <class F>
__device__ __forceinline__ float2 scales_of(const uint8_t* chunk, int group, int row, int tile) {
  return *reinterpret_cast<const float2*>(chunk + kCodeBytes + ((group * 8 + row) * kTiles + tile) * 8);
}

// Of a lane's activations, 16 bytes each, for the steps that are loaded together.
template <class F>
constexpr int kXPieces = F::kIndexed ? kTiles : F::kPartSteps*(F::kSparse ? 2 : 1) / 2;

// Calls `run` with the format's type, of those whose chunks are of one size and meet all columns.
template <class Run>
auto with_format(DecodeFormat format, Run run) {
  switch (format) {
    case DecodeFormat::int8:
      return run(Int8());
    case DecodeFormat::fp8:
      return run(Fp8());
    case DecodeFormat::int4_g32:
      return run(Int4<32>());
    case DecodeFormat::int4_g64:
      return run(Int4<64>());
    case DecodeFormat::int4_g128:
      return run(Int4<128>());
    case DecodeFormat::int4_g32_zero:
      return run(Int4<32, true>());
    case DecodeFormat::int4_g64_zero:
      return run(Int4<64, true>());
    case DecodeFormat::int4_g128_zero:
      return run(Int4<128, true>());
    case DecodeFormat::bf16_24:
      return run(Sparse24<Bf16>());
    case DecodeFormat::int8_24:
      return run(Sparse24<Int8>());
    case DecodeFormat::int4_g32_24:
      return run(Sparse24<Int4<16>>());
    case DecodeFormat::int4_g64_24:
      return run(Sparse24<Int4<32>>());
    default:
      return run(Sparse24<Int4<64>>());
  }
}

}  // namespace
}  // namespace lamina

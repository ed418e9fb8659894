// AMX: products of tiles, 16 tokens by 16 rows of weights by 64 bytes of columns an instruction. One token,
// and what is neither int8 nor bfloat16 on both sides, goes by AVX-512's instructions over the same weights.
// GCC 12 warns of its own deliberately undefined registers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "kernels/activations.hpp"
#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

#include "kernels/cpu/isa_avx512.inc"
#include "kernels/cpu/isa_avx512_vnni.inc"

// Each lane adds both products of its pair.
[[gnu::always_inline]] inline F b16_dot(F sum, I32 w, I32 x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

#include "kernels/cpu/ops_body.inc"

#include "kernels/cpu/isa_avx512_bf16.inc"

// The instructions. Written out, since GCC 12's intrinsics do not say all that they read.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

void tile_configure(const TileConfig& config) {
  asm volatile("ldtilecfg %0" ::"m"(config));
}
void tile_release() {
  asm volatile("tilerelease");
}
template <int Tile>
[[gnu::always_inline]] inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}
template <int Tile>
[[gnu::always_inline]] inline void tile_load(const void* from, int64_t row_bytes) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Tile), "r"(from), "r"(row_bytes) : "memory");
}
template <int Tile>
[[gnu::always_inline]] inline void tile_store(void* to, int64_t row_bytes) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(Tile), "r"(to), "r"(row_bytes) : "memory");
}
// Sum += X · W: int8 signed by unsigned into int32 without saturation, or bfloat16 into float32.
template <int Sum, int X, int W>
[[gnu::always_inline]] inline void tile_dot_i8() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
}
template <int Sum, int X, int W>
[[gnu::always_inline]] inline void tile_dot_b16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
}

#include "kernels/cpu/ops_tiles.inc"

}  // namespace

const CpuOps& amx_ops() {
  static const CpuOps ops = make_tile_table("amx");
  return ops;
}

}  // namespace lamina

// AVX-512 F, BW, DQ and VL: 16 floats or 32 int16 at a time, 32 registers.
// GCC 12 warns of its own deliberately undefined registers (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <utility>

#include "kernels/activations.hpp"
#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

constexpr int64_t kF = 16;
constexpr int kTokensF32 = 4, kTokensI8 = 4, kTokensGrouped = 3;
constexpr int kChains = 24, kIntChains = 16;
#define LAMINA_VECTOR_OPERAND(v) "+v"(v)

using F = __m512;
using I16 = __m512i;
using I32 = __m512i;

[[gnu::always_inline]] inline F f_zero() {
  return _mm512_setzero_ps();
}
[[gnu::always_inline]] inline F f_load(const float* p) {
  return _mm512_loadu_ps(p);
}
[[gnu::always_inline]] inline void f_store(float* p, F v) {
  _mm512_storeu_ps(p, v);
}
[[gnu::always_inline]] inline F f_set(float v) {
  return _mm512_set1_ps(v);
}
[[gnu::always_inline]] inline F f_fma(F a, F b, F c) {
  return _mm512_fmadd_ps(a, b, c);
}
[[gnu::always_inline]] inline F f_mul(F a, F b) {
  return _mm512_mul_ps(a, b);
}
[[gnu::always_inline]] inline F f_add(F a, F b) {
  return _mm512_add_ps(a, b);
}
[[gnu::always_inline]] inline F f_max(F a, F b) {
  return _mm512_max_ps(a, b);
}
[[gnu::always_inline]] inline F f_abs(F a) {
  return _mm512_abs_ps(a);
}
[[gnu::always_inline]] inline float f_sum(F a) {
  return _mm512_reduce_add_ps(a);
}
[[gnu::always_inline]] inline float f_largest(F a) {
  return _mm512_reduce_max_ps(a);
}

[[gnu::always_inline]] inline __m256 halves(F a) {
  return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}
[[gnu::always_inline]] inline void f_sum4(F a, F b, F c, F d, float* out) {
  const __m256 abcd =
      _mm256_hadd_ps(_mm256_hadd_ps(halves(a), halves(b)), _mm256_hadd_ps(halves(c), halves(d)));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

[[gnu::always_inline]] inline I16 i16_load(const void* p) {
  return _mm512_loadu_si512(p);
}
[[gnu::always_inline]] inline I32 i32_load(const void* p) {
  return _mm512_loadu_si512(p);
}
[[gnu::always_inline]] inline void i16_store(int16_t* p, I16 v) {
  _mm512_storeu_si512(p, v);
}
[[gnu::always_inline]] inline I16 i16_widen(const int8_t* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline I32 i32_zero() {
  return _mm512_setzero_si512();
}
[[gnu::always_inline]] inline I32 i32_madd(I16 a, I16 b) {
  return _mm512_madd_epi16(a, b);
}
[[gnu::always_inline]] inline I32 i32_add(I32 a, I32 b) {
  return _mm512_add_epi32(a, b);
}
[[gnu::always_inline]] inline int32_t i32_sum(I32 a) {
  return _mm512_reduce_add_epi32(a);
}
[[gnu::always_inline]] inline F i32_to_f(I32 a) {
  return _mm512_cvtepi32_ps(a);
}
[[gnu::always_inline]] inline __m256i halves(I32 a) {
  return _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
}
[[gnu::always_inline]] inline void i32_sum4(I32 a, I32 b, I32 c, I32 d, int32_t* out) {
  const __m256i abcd =
      _mm256_hadd_epi32(_mm256_hadd_epi32(halves(a), halves(b)), _mm256_hadd_epi32(halves(c), halves(d)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1)));
}

// The lane permutation reads the low 4 bits of each index alone: a nibble looks its number up, unmasked.
constexpr float kNibbleUnit = 1.0f;
template <int S>
[[gnu::always_inline]] inline F nibble_f(I32 word) {
  const F numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  if constexpr (S > 0) word = _mm512_srli_epi32(word, 4 * S);
  return _mm512_permutexvar_ps(word, numbers);
}
template <int S>
[[gnu::always_inline]] inline I16 nibble_i16(I16 word) {
  if constexpr (S < 3) word = _mm512_slli_epi16(word, 12 - 4 * S);
  return _mm512_srai_epi16(word, 12);
}

// For each mask of 8 bits, a byte a lane: its place among the kept values, and how many are kept.
struct ExpandTable {
  uint64_t place[256] = {};
  uint64_t kept[256] = {};
  constexpr ExpandTable() {
    for (int mask = 0; mask < 256; ++mask) {
      uint64_t next = 0;
      for (int lane = 0; lane < 8; ++lane) {
        place[mask] |= next << (8 * lane);
        next += mask >> lane & 1;
      }
      kept[mask] = next * 0x0101010101010101u;
    }
  }
};
constexpr ExpandTable kExpand;

// The expand instruction does the same, but takes 5 cycles on Zen 4 and 5 (and many more in its form that
// reads memory); a permutation by tabled places takes about 2.
[[gnu::always_inline]] inline F f_expand(const float* values, uint32_t mask) {
  const uint32_t low = mask & 255, high = mask >> 8;
  const __m128i places = _mm_set_epi64x(static_cast<int64_t>(kExpand.place[high] + kExpand.kept[low]),
                                        static_cast<int64_t>(kExpand.place[low]));
  return _mm512_maskz_permutexvar_ps(static_cast<__mmask16>(mask), _mm512_cvtepu8_epi32(places),
                                     f_load(values));
}

[[gnu::always_inline]] inline void store_codes(int16_t* codes, F scaled) {
  // Rounds to nearest, ties to even.
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(scaled)));
}

#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& avx512_ops() {
  static const CpuOps ops = make_table("avx512");
  return ops;
}

}  // namespace lamina

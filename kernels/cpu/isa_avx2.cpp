// AVX2 and FMA: 8 floats or 16 int16 at a time, 16 registers.
#include <immintrin.h>

#include <utility>

#include "kernels/activations.hpp"
#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

constexpr int64_t kF = 8;
constexpr int kTokensRows = 3, kTokensF32 = 6, kTokensI8 = 6, kTokensI4 = 4;
constexpr int kTokensF32Alone = 6, kTokensI8Alone = 6, kTokensI4Alone = 8;
constexpr int kTokens24 = 8, kTokens24I8 = 10, kSums24 = 8, kLeastVectors24 = 8, kVectors24 = 12;
constexpr int kTokensBitmap = 4, kSumsBitmap = 12;
constexpr int kCsrVectors = 4;
constexpr int kPanelsI4 = 1;
constexpr bool kWidensB16 = true;
constexpr bool fetches_one_token() {
  return true;
}
constexpr int kReadStreams = 8;
constexpr int kChains = 12, kIntChains = 8, kNibbleChains = 4;
#define LAMINA_VECTOR_OPERAND(v) "+x"(v)

using F = __m256;
using I16 = __m256i;
using I32 = __m256i;

[[gnu::always_inline]] inline F f_zero() {
  return _mm256_setzero_ps();
}
[[gnu::always_inline]] inline F f_load(const float* p) {
  return _mm256_loadu_ps(p);
}
[[gnu::always_inline]] inline void f_store(float* p, F v) {
  _mm256_storeu_ps(p, v);
}
[[gnu::always_inline]] inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
[[gnu::always_inline]] inline F f_load_some(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
[[gnu::always_inline]] inline void f_store_some(float* p, F v, int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), v);
}
[[gnu::always_inline]] inline F b16_low(I32 word) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(word, 16));
}
[[gnu::always_inline]] inline F b16_high(I32 word) {
  return _mm256_castsi256_ps(_mm256_and_si256(word, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// As float16, whose exponent has a bit more: the bits moved into place are the number times 2⁻⁸, subnormal or
// not.
struct E4m3 {
  static constexpr int64_t kColumns = 2;
  static constexpr float kUnit = 0x1p-8f;
  template <int Column>
  [[gnu::always_inline]] static F load(const uint8_t* p) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (Column == 0) bytes = _mm_slli_epi16(bytes, 8);
    return _mm256_cvtph_ps(
        _mm_and_si128(_mm_srai_epi16(bytes, 1), _mm_set1_epi16(static_cast<int16_t>(0xbf80))));
  }
};
// Without that conversion: the seven bits below the sign, where float32 keeps exponent and fraction, are the
// number times 2⁻¹²⁰, subnormal or not. Two columns of a word go by 16-bit shifts together, into bfloat16's
// places. Float32's subnormals, which this gives, are as fast as others on AMD's processors and slow on
// Intel's.
struct E4m3Words {
  static constexpr int64_t kColumns = 4;
  static constexpr float kUnit = 0x1p-120f;
  template <int Column>
  [[gnu::always_inline]] static F load(const uint8_t* p) {
    I32 bytes = _mm256_loadu_si256(reinterpret_cast<const I32*>(p));
    if constexpr (Column % 2 == 0) bytes = _mm256_slli_epi16(bytes, 8);
    const I32 pair =
        _mm256_and_si256(_mm256_srai_epi16(bytes, 4), _mm256_set1_epi16(static_cast<int16_t>(0x87f0)));
    return Column < 2 ? b16_low(pair) : b16_high(pair);
  }
};
inline bool takes_e4m3_words() {
  return __builtin_cpu_is("amd") != 0;
}
[[gnu::always_inline]] inline F f_set(float v) {
  return _mm256_set1_ps(v);
}
[[gnu::always_inline]] inline F f_fma(F a, F b, F c) {
  return _mm256_fmadd_ps(a, b, c);
}
[[gnu::always_inline]] inline F f_mul(F a, F b) {
  return _mm256_mul_ps(a, b);
}
[[gnu::always_inline]] inline F f_add(F a, F b) {
  return _mm256_add_ps(a, b);
}
[[gnu::always_inline]] inline F f_max(F a, F b) {
  return _mm256_max_ps(a, b);
}
[[gnu::always_inline]] inline F f_abs(F a) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

[[gnu::always_inline]] inline void f_sum4(F a, F b, F c, F d, float* out) {
  const F abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}
[[gnu::always_inline]] inline float f_sum(F a) {
  __m128 v = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}
[[gnu::always_inline]] inline float f_largest(F a) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}

[[gnu::always_inline]] inline I16 i16_load(const void* p) {
  return _mm256_loadu_si256(static_cast<const I16*>(p));
}
[[gnu::always_inline]] inline I32 i32_load(const void* p) {
  return _mm256_loadu_si256(static_cast<const I32*>(p));
}
[[gnu::always_inline]] inline I32 i32_set(int32_t v) {
  return _mm256_set1_epi32(v);
}
[[gnu::always_inline]] inline void i32_store(int32_t* p, I32 v) {
  _mm256_storeu_si256(reinterpret_cast<I32*>(p), v);
}
[[gnu::always_inline]] inline I32 i32_zero() {
  return _mm256_setzero_si256();
}
[[gnu::always_inline]] inline I32 i32_add(I32 a, I32 b) {
  return _mm256_add_epi32(a, b);
}
[[gnu::always_inline]] inline F i32_to_f(I32 a) {
  return _mm256_cvtepi32_ps(a);
}
[[gnu::always_inline]] inline int32_t i32_sum(I32 a) {
  __m128i v = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

template <int S>
[[gnu::always_inline]] inline I32 i32_shl(I32 a) {
  return _mm256_slli_epi32(a, S);
}
template <int S>
[[gnu::always_inline]] inline I32 i32_srl(I32 a) {
  return _mm256_srli_epi32(a, S);
}
[[gnu::always_inline]] inline I32 i32_and(I32 a, I32 b) {
  return _mm256_and_si256(a, b);
}
[[gnu::always_inline]] inline I32 i32_or(I32 a, I32 b) {
  return _mm256_or_si256(a, b);
}
[[gnu::always_inline]] inline F f_of_bits(I32 a) {
  return _mm256_castsi256_ps(a);
}
// 16 bytes to both 128-bit lanes, and the selection within each.
[[gnu::always_inline]] inline F f_quad(const float* p) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
}
[[gnu::always_inline]] inline F f_select(F quad, I32 which) {
  return _mm256_permutevar_ps(quad, which);
}
// The same once the index has become the four bytes' places: Intel's processors shuffle bytes by two ports,
// and select by one.
[[gnu::always_inline]] inline I32 select_places(I32 which) {
  const __m256i bytes =
      _mm256_set_epi64x(0x0f0e0d0c0b0a0908, 0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
  return _mm256_castps_si256(_mm256_permutevar_ps(_mm256_castsi256_ps(bytes), which));
}
[[gnu::always_inline]] inline F f_select_placed(F quad, I32 places) {
  return _mm256_castsi256_ps(_mm256_shuffle_epi8(_mm256_castps_si256(quad), places));
}
[[gnu::always_inline]] inline I32 i8_lane(const int8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline I32 i8_select(I32 lane, I32 which) {
  return _mm256_shuffle_epi8(lane, which);
}
// Two products of 127·127 fit int16.
[[gnu::always_inline]] inline I32 i8_dot4(I32 sum, I32 magnitudes, I32 x) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, x), _mm256_set1_epi16(1)));
}

// A nibble at the top of its word is a signed number times 2²⁸, which converts exactly: no sign extension is
// needed.
constexpr float kNibbleUnit = 268435456.0f;
template <int S>
[[gnu::always_inline]] inline F nibble_f(I32 word) {
  if constexpr (S < 7) word = _mm256_slli_epi32(word, 28 - 4 * S);
  return _mm256_cvtepi32_ps(_mm256_and_si256(word, _mm256_set1_epi32(static_cast<int>(0xf0000000u))));
}
// For each mask of 8 bits, each lane's place among the kept values, or a negative number.
struct ExpandTable {
  alignas(32) int32_t place[256][8] = {};
  constexpr ExpandTable() {
    for (int mask = 0; mask < 256; ++mask) {
      int next = 0;
      for (int lane = 0; lane < 8; ++lane) place[mask][lane] = (mask >> lane & 1) != 0 ? next++ : -1;
    }
  }
};
constexpr ExpandTable kExpand;

// Places as bytes would be a table of a quarter, but widening them takes the port of the permutation. The
// empty `asm` keeps the load of values apart from the permutation, which takes half as long again on Zen 3
// when it reads memory itself; the other keeps GCC from making two instructions of the blend, or from copying
// the zeros each time.
[[gnu::always_inline]] inline F f_expand(const float* values, uint32_t mask) {
  const I32 place = _mm256_load_si256(reinterpret_cast<const I32*>(kExpand.place[mask]));
  F first = f_load(values), spread;
  asm("" : "+x"(first));
  asm("vblendvps %2, %3, %1, %0"
      : "=x"(spread)
      : "x"(_mm256_permutevar8x32_ps(first, place)), "x"(place), "x"(f_zero()));
  return spread;
}

// GCC clears the register before, for the sake of old processors.
[[gnu::always_inline]] inline int64_t bit_count(uint64_t word) {
  uint64_t count;
  asm("popcntq %1, %0" : "=r"(count) : "r"(word) : "cc");
  return static_cast<int64_t>(count);
}

// By single loads: the gather instruction takes half as long again on Zen 3.
template <class Index>
[[gnu::always_inline]] inline F f_gather(const float* x, const Index* c) {
  return _mm256_setr_ps(x[c[0]], x[c[1]], x[c[2]], x[c[3]], x[c[4]], x[c[5]], x[c[6]], x[c[7]]);
}

// Rounds to nearest, ties to even.
[[gnu::always_inline]] inline void store_codes(int8_t* codes, F scaled) {
  const __m256i rounded = _mm256_cvtps_epi32(scaled);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), _mm_packs_epi16(words, words));
}

// int8 products go through int16: weights widened, pairs of columns summed.
constexpr int64_t kI8Columns = 2;
constexpr int32_t kI8Bias = 0;
using I8Vector = I16;
[[gnu::always_inline]] inline I8Vector i8_load(const void* p) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
[[gnu::always_inline]] inline I8Vector i8_wide_load(const uint8_t* p) {
  return i16_load(p);
}
[[gnu::always_inline]] inline I32 i8_dot(I32 sum, I8Vector w, I32 x) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}

// 8 columns of 8 rows: a byte has one of the first four columns below and one of the last four above.
struct Nibbles {
  I32 low, high;
};
[[gnu::always_inline]] inline Nibbles nibbles_load(const uint8_t* p) {
  const I32 bytes = i32_load(p), mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask)};
}
[[gnu::always_inline]] inline Nibbles nibbles_wide_load(const uint8_t* p) {
  return {i32_load(p), i32_load(p + 4 * kF)};
}
// Sums of 16 products of 15·127 fit int16: 32 columns, two a product and step. The compiler may not regroup
// the additions: it would keep all products first, in memory.
constexpr bool kWidensI8 = true, kWidensI4 = true;
using Part = I16;
[[gnu::always_inline]] inline Part part_begin(I32) {
  return _mm256_setzero_si256();
}
[[gnu::always_inline]] inline Part part_dot(Part part, const Nibbles& w, I32 low, I32 high) {
  part = _mm256_add_epi16(part, _mm256_maddubs_epi16(w.low, low));
  asm("" : "+x"(part));
  part = _mm256_add_epi16(part, _mm256_maddubs_epi16(w.high, high));
  asm("" : "+x"(part));
  return part;
}
[[gnu::always_inline]] inline I32 part_end(I32 exact, Part part) {
  return _mm256_add_epi32(exact, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
}

#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& avx2_ops() {
  static const CpuOps ops = make_table("avx2");
  return ops;
}

}  // namespace lamina

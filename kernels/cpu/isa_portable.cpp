// Any processor: 4 floats or 8 int16 at a time by the compiler's vector types, which it lowers to SSE2, NEON
// or scalars.
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/activations.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

constexpr int64_t kF = 4;
constexpr int kTokensRows = 2, kTokensF32 = 4, kTokensI8 = 4, kTokensI4 = 2;
constexpr int kTokensF32Alone = 4, kTokensI8Alone = 4, kTokensI4Alone = 2;
constexpr int kTokens24 = 2, kTokens24I8 = 2, kSums24 = 4, kLeastVectors24 = 2, kVectors24 = 8;
constexpr int kTokensBitmap = 4, kSumsBitmap = 8;
constexpr int kCsrVectors = 4;
constexpr int kPanelsI4 = 1;
constexpr bool kWidensB16 = true;
constexpr bool fetches_one_token() {
  return true;
}
constexpr int kReadStreams = 8;
constexpr int kChains = 8, kIntChains = 8, kNibbleChains = 4;
#if defined(__SSE2__)
#define LAMINA_VECTOR_OPERAND(v) "+x"(v)
#elif defined(__aarch64__)
#define LAMINA_VECTOR_OPERAND(v) "+w"(v)
#else
#define LAMINA_VECTOR_OPERAND(v) "+m"(v)
#endif

typedef float F __attribute__((vector_size(16)));
typedef int16_t I16 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
typedef int8_t I8 __attribute__((vector_size(8)));
typedef int8_t I8x16 __attribute__((vector_size(16)));

template <class Vector>
inline Vector load(const void* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline F f_zero() {
  return F{};
}
inline F f_load(const float* p) {
  return load<F>(p);
}
inline void f_store(float* p, F v) {
  std::memcpy(p, &v, sizeof v);
}
inline F f_load_some(const float* p, int64_t n) {
  F v = {};
  std::memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
inline void f_store_some(float* p, F v, int64_t n) {
  std::memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}
inline F b16_low(I32 word) {
  return (F)(word << 16);
}
inline F b16_high(I32 word) {
  return (F)(word & static_cast<int32_t>(0xffff0000u));
}
struct E4m3 {
  static constexpr int64_t kColumns = 1;
  static constexpr float kUnit = 1.0f;
  template <int Column>
  static F load(const uint8_t* p) {
    F v;
    for (int lane = 0; lane < kF; ++lane) v[lane] = float_of_e4m3(p[lane]);
    return v;
  }
};
using E4m3Words = E4m3;
inline bool takes_e4m3_words() {
  return true;
}
inline F f_set(float v) {
  return F{v, v, v, v};
}
inline F f_fma(F a, F b, F c) {
  return a * b + c;
}
inline F f_mul(F a, F b) {
  return a * b;
}
inline F f_add(F a, F b) {
  return a + b;
}
inline F f_max(F a, F b) {
  return a > b ? a : b;
}
inline F f_abs(F a) {
  return (F)((I32)a & 0x7fffffff);
}
inline float f_sum(F a) {
  return (a[0] + a[1]) + (a[2] + a[3]);
}
inline float f_largest(F a) {
  return std::fmax(std::fmax(a[0], a[1]), std::fmax(a[2], a[3]));
}
inline void f_sum4(F a, F b, F c, F d, float* out) {
  out[0] = f_sum(a);
  out[1] = f_sum(b);
  out[2] = f_sum(c);
  out[3] = f_sum(d);
}

inline I16 i16_load(const void* p) {
  return load<I16>(p);
}
inline I32 i32_load(const void* p) {
  return load<I32>(p);
}
inline I32 i32_set(int32_t v) {
  return I32{v, v, v, v};
}
inline void i32_store(int32_t* p, I32 v) {
  std::memcpy(p, &v, sizeof v);
}
inline I32 i32_zero() {
  return I32{};
}
inline I32 i32_madd(I16 a, I16 b) {
#if defined(__SSE2__)
  return (I32)__builtin_ia32_pmaddwd128((__attribute__((vector_size(16))) short)a,
                                        (__attribute__((vector_size(16))) short)b);
#else
  // Even and odd int16 sign-extended in place.
  const I32 even = (((I32)a << 16) >> 16) * (((I32)b << 16) >> 16);
  return even + ((I32)a >> 16) * ((I32)b >> 16);
#endif
}
inline I32 i32_add(I32 a, I32 b) {
  return a + b;
}
inline int32_t i32_sum(I32 a) {
  return (a[0] + a[1]) + (a[2] + a[3]);
}
inline F i32_to_f(I32 a) {
  return __builtin_convertvector(a, F);
}

template <int S>
inline I32 i32_shl(I32 a) {
  return a << S;
}
template <int S>
inline I32 i32_srl(I32 a) {
  typedef uint32_t U32 __attribute__((vector_size(16)));
  return (I32)((U32)a >> S);
}
inline I32 i32_and(I32 a, I32 b) {
  return a & b;
}
inline I32 i32_or(I32 a, I32 b) {
  return a | b;
}
inline F f_of_bits(I32 a) {
  return (F)a;
}
inline F f_quad(const float* p) {
  return f_load(p);
}
inline F f_select(F quad, I32 which) {
  return F{quad[which[0] & 3], quad[which[1] & 3], quad[which[2] & 3], quad[which[3] & 3]};
}
inline I32 select_places(I32 which) {
  return which;
}
inline F f_select_placed(F quad, I32 which) {
  return f_select(quad, which);
}
inline I32 i8_lane(const int8_t* p) {
  return load<I32>(p);
}
inline I32 i8_select(I32 lane, I32 which) {
  const I8x16 bytes = (I8x16)lane, places = (I8x16)which;
  I8x16 out;
  for (int b = 0; b < 16; ++b) out[b] = bytes[places[b] & 15];
  return (I32)out;
}
inline I32 i8_dot4(I32 sum, I32 magnitudes, I32 x) {
  const I8x16 w = (I8x16)magnitudes, v = (I8x16)x;
  for (int b = 0; b < 16; ++b) sum[b / 4] += w[b] * v[b];
  return sum;
}

constexpr float kNibbleUnit = 1.0f;
template <int S>
inline F nibble_f(I32 word) {
  return __builtin_convertvector((word << (28 - 4 * S)) >> 28, F);
}
inline F f_expand(const float* values, uint32_t mask) {
  F out;
  for (int lane = 0; lane < kF; ++lane) {
    const bool kept = (mask >> lane & 1) != 0;
    out[lane] = kept ? *values : 0.0f;
    values += kept ? 1 : 0;
  }
  return out;
}

template <class Index>
inline F f_gather(const float* x, const Index* columns) {
  return F{x[columns[0]], x[columns[1]], x[columns[2]], x[columns[3]]};
}

inline int64_t bit_count(uint64_t word) {
  return __builtin_popcountll(word);
}

inline void store_codes(int8_t* codes, F scaled) {
  for (int lane = 0; lane < kF; ++lane) codes[lane] = static_cast<int8_t>(std::nearbyint(scaled[lane]));
}

constexpr int64_t kI8Columns = 2;
constexpr int32_t kI8Bias = 0;
using I8Vector = I16;
inline I8Vector i8_load(const void* p) {
  return __builtin_convertvector(load<I8>(p), I16);
}
inline I8Vector i8_wide_load(const uint8_t* p) {
  return i16_load(p);
}
inline I32 i8_dot(I32 sum, I8Vector w, I32 x) {
  return sum + i32_madd(w, (I16)x);
}

// 8 columns of 4 rows: a byte has one of the first four columns below and one of the last four above.
struct Nibbles {
  I32 bytes;
};
inline Nibbles nibbles_load(const uint8_t* p) {
  return {load<I32>(p)};
}
inline Nibbles nibbles_wide_load(const uint8_t* p) {
  return nibbles_load(p);
}
constexpr bool kWidensI8 = true, kWidensI4 = false;
using Part = I32;
inline Part part_begin(I32 exact) {
  return exact;
}
inline Part part_dot(Part part, const Nibbles& w, I32 low, I32 high) {
  for (int column = 0; column < 4; ++column) {
    const int shift = 24 - 8 * column;
    part += ((w.bytes >> (8 * column)) & 15) * ((low << shift) >> 24);
    part += ((w.bytes >> (8 * column + 4)) & 15) * ((high << shift) >> 24);
  }
  return part;
}
inline I32 part_end(I32, Part part) {
  return part;
}

#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& portable_ops() {
  static const CpuOps ops = make_table("portable");
  return ops;
}

}  // namespace lamina

// AVX-512 F, BW, DQ and VL.
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

// Without VNNI int8 products go through int16: weights widened, pairs of columns summed.
constexpr int64_t kI8Columns = 2;
constexpr int32_t kI8Bias = 0;
using I8Vector = I16;
[[gnu::always_inline]] inline I8Vector i8_load(const void* p) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline I8Vector i8_wide_load(const uint8_t* p) {
  return i16_load(p);
}
[[gnu::always_inline]] inline I32 i8_dot(I32 sum, I8Vector w, I32 x) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x));
}
// Two products of 127·127 fit int16.
[[gnu::always_inline]] inline I32 i8_dot4(I32 sum, I32 magnitudes, I32 x) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(magnitudes, x), _mm512_set1_epi16(1)));
}
// Sums of 16 products of 15·127 fit int16: 32 columns, two a product and step. The compiler may not regroup
// the additions: it would keep all products first, in memory.
constexpr bool kWidensI8 = true, kWidensI4 = true;
constexpr int kNibbleChains = 8;  // two registers each
using Part = I16;
[[gnu::always_inline]] inline Part part_begin(I32) {
  return _mm512_setzero_si512();
}
[[gnu::always_inline]] inline Part part_dot(Part part, const Nibbles& w, I32 low, I32 high) {
  part = _mm512_add_epi16(part, _mm512_maddubs_epi16(w.low, low));
  asm("" : "+v"(part));
  part = _mm512_add_epi16(part, _mm512_maddubs_epi16(w.high, high));
  asm("" : "+v"(part));
  return part;
}
[[gnu::always_inline]] inline I32 part_end(I32 exact, Part part) {
  return _mm512_add_epi32(exact, _mm512_madd_epi16(part, _mm512_set1_epi16(1)));
}

#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& avx512_ops() {
  static const CpuOps ops = make_table("avx512");
  return ops;
}

}  // namespace lamina

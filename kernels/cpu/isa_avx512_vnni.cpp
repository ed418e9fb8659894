// AVX-512 with VNNI: a multiply-add of 64 bytes an instruction.
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

// Products of unsigned by signed bytes, four columns summed into int32 without saturation. Weights are the
// unsigned side, 128 too large, which the sum's start takes back.
constexpr int64_t kI8Columns = 4;
constexpr int32_t kI8Bias = 128;
using I8Vector = __m512i;
[[gnu::always_inline]] inline I8Vector i8_load(const void* p) {
  return _mm512_loadu_si512(p);
}
[[gnu::always_inline]] inline I32 i8_dot(I32 sum, I8Vector w, I32 x) {
  return _mm512_dpbusd_epi32(sum, w, x);
}
[[gnu::always_inline]] inline I32 i8_dot4(I32 sum, I32 magnitudes, I32 x) {
  return _mm512_dpbusd_epi32(sum, magnitudes, x);
}
using Part = I32;
[[gnu::always_inline]] inline Part part_begin(I32 exact) {
  return exact;
}
[[gnu::always_inline]] inline Part part_dot(Part part, const Nibbles& w, I32 low, I32 high) {
  return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(part, w.low, low), w.high, high);
}
[[gnu::always_inline]] inline I32 part_end(I32, Part part) {
  return part;
}

#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& avx512_vnni_ops() {
  static const CpuOps ops = make_table("avx512_vnni");
  return ops;
}

}  // namespace lamina

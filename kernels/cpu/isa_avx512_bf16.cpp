// AVX-512 with VNNI and BF16: a multiply-add of 32 bfloat16 an instruction too.
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

}  // namespace

const CpuOps& avx512_bf16_ops() {
  static const CpuOps ops = [] {
    CpuOps made = make_table("avx512_bf16");
    made.tokens_b16 = kTokensF32;
    made.panel_b16_b16 = panel_b16_b16<kTokensF32>;
    return made;
  }();
  return ops;
}

}  // namespace lamina

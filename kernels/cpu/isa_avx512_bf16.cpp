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

// As panel_b16_b16 does it, in registers.
double mac_b16(int64_t iterations) {
  F sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = f_zero();
  I32 w = i32_set(0x40493fb5);
  const I32 x = i32_set(0x3f80bf80);  // 1 and −1: sums grow slowly
  for (int64_t i = 0; i < iterations; ++i)
    unrolled<kChains>([&](auto c) {
      asm volatile("" : LAMINA_VECTOR_OPERAND(w));  // as in mac_int8
      sum[c.value] = b16_dot(sum[c.value], w, x);
    });
  for (int c = 1; c < kChains; ++c) sum[0] = f_add(sum[0], sum[c]);
  return f_sum(sum[0]);
}

}  // namespace

const CpuOps& avx512_bf16_ops() {
  static const CpuOps ops = [] {
    CpuOps made = make_table("avx512_bf16");
    made.tokens_b16 = {kTokensF32, kTokensF32};
    made.panel_b16_b16 = panel_b16_b16<kTokensF32>;
    made.probes[static_cast<size_t>(Arithmetic::bf16)] = {mac_b16, 2.0 * 2 * kChains * kF};
    return made;
  }();
  return ops;
}

}  // namespace lamina

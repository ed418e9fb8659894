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
#include "kernels/cpu/isa_avx512_vnni.inc"
#include "kernels/cpu/ops_body.inc"

}  // namespace

const CpuOps& avx512_vnni_ops() {
  static const CpuOps ops = make_table("avx512_vnni");
  return ops;
}

}  // namespace lamina

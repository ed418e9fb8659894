// The bf16 and f16 rules of activations.hpp on the device.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/activations.hpp"

namespace lamina {
namespace {

// to_bfloat16 of small_floats.hpp, and what the rule takes for zero.
__device__ __forceinline__ uint16_t bf16_of(float value) {
  const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
  if (fabsf(value) < kSmallestActivation) return 0;
  if (magnitude >= 0x7f7f8000u)
    return static_cast<uint16_t>(bits >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0u));
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

// bfloat16 over an input scale, as bfloat16 again.
__device__ __forceinline__ uint32_t divided_bf16(uint32_t bits, float input_scale) {
  return bf16_of(__fdiv_rn(__uint_as_float(bits << 16), input_scale));
}

// finite_f16_of_float of small_floats.hpp.
__device__ __forceinline__ uint16_t fp16_of(float value) {
  const __half nearest = __float2half_rn(isfinite(value) ? fminf(fmaxf(value, -65504.0f), 65504.0f) : value);
  return __half_as_ushort(nearest);
}

}  // namespace
}  // namespace lamina

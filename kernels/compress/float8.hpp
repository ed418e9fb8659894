// Small floating-point formats, as weights are stored in them.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/activations.hpp"

namespace lamina {

// e4m3 as machine learning uses it (Micikevicius et al. 2022, "FP8 formats for deep learning"): a sign, 4
// bits of exponent with bias 7, 3 of fraction; no infinities, NaN where all exponent and fraction bits are
// set.
inline constexpr float kLargestE4m3 = 448;

inline float float_of_e4m3(uint8_t code) {
  const uint32_t exponent = code >> 3 & 15, fraction = code & 7;
  const float magnitude = exponent == 0 ? static_cast<float>(fraction) * 0x1p-9f
                          : exponent == 15 && fraction == 7
                              ? std::bit_cast<float>(0x7fc00000u)
                              : std::bit_cast<float>((exponent + 120) << 23 | fraction << 20);
  return (code & 128) != 0 ? -magnitude : magnitude;
}

// The nearest e4m3 number, ties to even; what is beyond ±448 becomes that. `value` is finite.
inline uint8_t e4m3_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 128);
  const float magnitude = std::bit_cast<float>(bits & 0x7fffffffu);
  if (magnitude >= kLargestE4m3) return static_cast<uint8_t>(sign | 0x7e);
  if (magnitude < 0x1p-6f) {
    // Subnormal: multiples of 2⁻⁹. Adding 2¹⁴ leaves a float no finer bits, and rounds as the rule wants.
    const float shifted = magnitude + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(shifted) & 15));
  }
  const uint32_t kept = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = kept + 0x7ffffu + (kept >> 20 & 1);
  const uint32_t code = (rounded >> 20) - (120u << 3);
  return static_cast<uint8_t>(sign | (code > 0x7e ? 0x7e : code));
}

// The nearest bfloat16, as a float; ties to even. What is finite stays so, beyond the largest bfloat16 too;
// subnormal numbers become zeros, as the processors' bfloat16 instructions take them; infinities and NaN
// stay.
inline float to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x00800000u) return std::bit_cast<float>(bits & 0x80000000u);
  // Rounding up the largest would give an infinity, and a NaN may keep its only bits below.
  if (magnitude >= 0x7f7f8000u)
    return std::bit_cast<float>((bits & 0xffff0000u) | (magnitude > 0x7f800000u ? 0x00400000u : 0u));
  return std::bit_cast<float>((bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u);
}
// The bits of the nearest float16, ties to even. What is finite stays so, beyond the largest float16 too;
// subnormal numbers, infinities and NaN stay.
inline uint16_t float16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), kept = bits & 0x7fffffffu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (kept >= 0x7f800000u) return static_cast<uint16_t>(sign | (kept > 0x7f800000u ? 0x7e00u : 0x7c00u));
  const float magnitude = std::bit_cast<float>(kept);
  uint32_t code = 0x7bffu;
  if (magnitude < 0x1p-14f)  // multiples of 2⁻²⁴: adding ½ leaves a float no finer bits
    code = std::bit_cast<uint32_t>(magnitude + 0.5f) & 0x7ffu;
  else if (magnitude < 65504.0f)
    code = ((kept + 0xfffu + (kept >> 13 & 1)) >> 13) - (112u << 10);
  return static_cast<uint16_t>(sign | (code > 0x7bffu ? 0x7bffu : code));
}
inline float float_of_float16(uint16_t code) {
  const uint32_t sign = uint32_t{code} << 16 & 0x80000000u, kept = code & 0x7fffu;
  if (kept >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (kept > 0x7c00u ? 0x400000u : 0u));
  if (kept < 0x400u) return (sign != 0 ? -0x1p-24f : 0x1p-24f) * static_cast<float>(kept);
  return std::bit_cast<float>(sign | ((kept << 13) + (112u << 23)));
}
inline float to_float16(float value) {
  return float_of_float16(float16_of_float(value));
}

// The rule for bf16 activations (activations.hpp).
inline float bf16_activation(float value) {
  return value < kSmallestActivation && value > -kSmallestActivation ? 0.0f : to_bfloat16(value);
}

}  // namespace lamina

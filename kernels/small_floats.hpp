// Small floating-point formats, as weights and activations are stored and sent in them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/activations.hpp"

namespace lamina {

// e4m3 as machine learning uses it (Micikevicius et al. 2022, "FP8 formats for deep learning"): a sign, 4
// bits of exponent with bias 7, 3 of fraction; no infinities, NaN where all exponent and fraction bits are
// set.
inline constexpr float kLargestE4m3 = 448;

// Here and below no selection is between results of floating-point operations, which compilers leave in
// branches: so loops over these vectorise.
inline float float_of_e4m3(uint8_t code) {
  const uint32_t magnitude = code & 127u;
  // Subnormal: 2⁻⁶·(1 + fraction/8) less 2⁻⁶.
  const uint32_t below = magnitude < 8 ? 1 : 0;
  const float value = std::bit_cast<float>((magnitude << 20) + ((120 + below) << 23)) -
                      std::bit_cast<float>(below * 0x3c800000u);
  const uint32_t nan = magnitude == 127 ? 0x7fc00000u : 0;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | nan | (code & 128u) << 24);
}

// The nearest e4m3 number, ties to even; what is beyond ±448 becomes that. `value` is finite.
inline uint8_t e4m3_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t below = (magnitude - 0x3c800000u) >> 31;  // 1 below 2⁻⁶, from where numbers are normal
  const uint32_t rounded = (magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20;
  const uint32_t normal = (rounded - (120u << 3)) | below << 31;
  // Multiples of 2⁻⁹: adding 2¹⁴ leaves a float no finer bits, and rounds as the rule wants.
  const uint32_t tiny =
      (std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) & 15) | (1 - below) << 31;
  const uint32_t code = std::min({normal, tiny, 0x7eu});
  return static_cast<uint8_t>(code | (bits >> 24 & 128));
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

// float16 and bfloat16 as collectives add them: the nearest, ties to even; what is finite and too large
// becomes an infinity, as GPUs and NCCL have it (to_bfloat16 and to_float16 serve layers instead).
inline uint16_t bf16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  // A NaN must not be carried into an infinity.
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 0x40u) : rounded);
}

inline float float_of_bf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

// IEEE 754 binary16: 5 bits of exponent with bias 15, 10 of fraction.
inline uint16_t f16_of_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t below = (magnitude - 0x38800000u) >> 31;  // 1 below 2⁻¹⁴, from where numbers are normal
  // The bias moves by 112, and 13 bits go. A carry may run on into the exponent, or to infinity.
  const uint32_t normal =
      ((magnitude + 0x0fffu + (magnitude >> 13 & 1) - (112u << 23)) >> 13) + (below << 20);
  // Beside a half, a float32 has no bits finer than 2⁻²⁴, the smallest float16.
  const uint32_t tiny =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u + ((1 - below) << 20);
  const uint32_t nan = magnitude > 0x7f800000u ? 0x200u : 0;
  return static_cast<uint16_t>(sign | std::min({normal, tiny, 0x7c00u}) | nan);
}

inline float float_of_f16(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t shifted = static_cast<uint32_t>(value & 0x7fffu) << 13;
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(shifted) * 0x1p112f);
  const uint32_t special = shifted >= 0x0f800000u ? 0x7f800000u : 0;  // infinities and NaN
  return std::bit_cast<float>(sign | scaled | special);
}

// As layers store them: what is finite stays so, beyond the largest float16 too.
inline uint16_t finite_f16_of_float(float value) {
  const uint16_t code = f16_of_float(value);
  const bool overflown =
      (code & 0x7fffu) == 0x7c00u && (std::bit_cast<uint32_t>(value) & 0x7fffffffu) < 0x7f800000u;
  return static_cast<uint16_t>(code - (overflown ? 1 : 0));
}
inline float to_float16(float value) {
  return float_of_f16(finite_f16_of_float(value));
}

// The rule for bf16 activations (activations.hpp).
inline float bf16_activation(float value) {
  return value < kSmallestActivation && value > -kSmallestActivation ? 0.0f : to_bfloat16(value);
}

}  // namespace lamina

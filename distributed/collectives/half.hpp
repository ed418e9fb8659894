// float16 and bfloat16 as collectives add them: widened to float32, rounded to nearest with ties to even on
// the way back. Selections instead of branches, so that compilers vectorise loops over them.
#pragma once

#include <bit>
#include <cstdint>

namespace lamina {

// What is finite and too large becomes an infinity, as GPUs and NCCL have it (unlike to_bfloat16, which
// serves activations).
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
  // Exponents from 1: the bias moves by 112, and 13 bits go. A carry may run on into the exponent, or to
  // infinity.
  const uint32_t normal = (magnitude + 0x0fffu + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  // Below 2⁻¹⁴: beside a half, a float32 has no bits finer than 2⁻²⁴, the smallest float16.
  const uint32_t tiny = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t huge = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? tiny : normal;
  return static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? huge : finite));
}

inline float float_of_f16(uint16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  const uint32_t shifted = static_cast<uint32_t>(value & 0x7fffu) << 13;
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(shifted) * 0x1p112f);
  const uint32_t special = shifted | 0x7f800000u;  // infinities and NaN
  return std::bit_cast<float>(sign | (shifted >= 0x0f800000u ? special : scaled));
}

}  // namespace lamina

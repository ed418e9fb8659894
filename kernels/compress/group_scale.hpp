// Scales of groups of 4-bit codes, −8..7, and the codes: w ≈ scale · code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/compress/rows.hpp"

namespace lamina {

// Clamped first, so that round_even holds for any finite quotient.
inline int8_t code_of(float w, float inverse_scale) {
  return static_cast<int8_t>(round_even(std::clamp(w * inverse_scale, -8.0f, 7.0f)));
}

// e / −8, where e is the weight of largest magnitude, sign included: it falls on −8 exactly, and all 16 codes
// are in use. Of weights that are all (nearly) 0 it is 0.
float extreme_scale(const float* w, int64_t count);

// Σ_j cost_j · (w_j − scale · code_j)².
double rounding_loss(const float* w, const double* cost, int64_t count, float scale);

// Of the extreme scale, shrunk by up to kSearchSteps · kSearchStep and of both signs, the one of least loss:
// what it clips may cost less than what a finer step saves. The extreme scale itself where none is better.
// `count` is at most kLargestGroup.
float searched_scale(const float* w, const double* cost, int64_t count);
inline constexpr int kSearchSteps = 16;
inline constexpr float kSearchStep = 0.025f;
inline constexpr int64_t kLargestGroup = 128;

// Codes of `count` weights; zeros where the scale is 0.
void round_group(const float* w, int64_t count, float scale, int8_t* codes);

}  // namespace lamina

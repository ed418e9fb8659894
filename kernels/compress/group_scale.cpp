#include "kernels/compress/group_scale.hpp"

#include <cmath>

namespace lamina {

float extreme_scale(const float* w, int64_t count) {
  const float amax = largest_magnitude(w, count);
  if (amax < kSmallestActivation) return 0;
  for (int64_t j = 0; j < count; ++j)
    if (std::fabs(w[j]) == amax) return w[j] / -8.0f;
  return 0;
}

double rounding_loss(const float* w, const double* cost, int64_t count, float scale) {
  const float inverse = 1.0f / scale;
  float error[kLargestGroup];
  for (int64_t j = 0; j < count; ++j)
    error[j] = w[j] - scale * round_even(std::clamp(w[j] * inverse, -8.0f, 7.0f));
  double loss = 0;
  for (int64_t j = 0; j < count; ++j) loss += cost[j] * (static_cast<double>(error[j]) * error[j]);
  return loss;
}

float searched_scale(const float* w, const double* cost, int64_t count) {
  const float extreme = extreme_scale(w, count);
  if (extreme == 0) return 0;
  float best = extreme;
  double least = rounding_loss(w, cost, count, extreme);
  // With the other sign the extreme falls on 7.
  for (const float full : {extreme, extreme * (-8.0f / 7.0f)}) {
    for (int step = 0; step <= kSearchSteps; ++step) {
      const float scale = full * (1 - kSearchStep * static_cast<float>(step));
      const double loss = rounding_loss(w, cost, count, scale);
      if (loss < least) {
        least = loss;
        best = scale;
      }
    }
  }
  return best;
}

void round_group(const float* w, int64_t count, float scale, int8_t* codes) {
  if (scale == 0) {
    std::fill(codes, codes + count, int8_t{0});
    return;
  }
  const float inverse = 1.0f / scale;
  for (int64_t j = 0; j < count; ++j) codes[j] = code_of(w[j], inverse);
}

}  // namespace lamina

#include "kernels/cpu/silu.hpp"

#include <bit>

namespace lamina {
namespace {

// e^x by splitting off a power of two and a Taylor polynomial on [−ln2/2, ln2/2] (Cody and Waite's reduction:
// ln2 in two parts). Plain arithmetic without branches, so that the compiler vectorises the loop around it.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float scaled = x * 1.44269504f + (x < 0 ? -0.5f : 0.5f);
  const int32_t whole = static_cast<int32_t>(scaled);
  const float n = static_cast<float>(whole);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * std::bit_cast<float>((whole + 127) << 23);
}

}  // namespace

void silu_gate(const float* gate_up, float* h, int64_t tokens, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) collapse(2) schedule(static)
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t begin = 0; begin < width; begin += 1024) {
      const int64_t end = begin + 1024 < width ? begin + 1024 : width;
      const float* gate = gate_up + t * 2 * width;
      const float* up = gate + width;
      float* out = h + t * width;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
    }
}

}  // namespace lamina

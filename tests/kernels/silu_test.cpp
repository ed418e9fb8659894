#include "kernels/cpu/silu.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace lamina {
namespace {

TEST(SiluGate, AgreesWithFloat64OverItsRange) {
  for (int64_t width : {1, 7, 1000, 3001}) {
    const int64_t tokens = 3;
    std::vector<float> in(static_cast<size_t>(tokens * 2 * width)),
        out(static_cast<size_t>(tokens * width), NAN);
    for (size_t i = 0; i < in.size(); ++i)
      in[i] = static_cast<float>(40.0 * std::sin(0.37 * static_cast<double>(i)));
    silu_gate(in.data(), out.data(), tokens, width, 2);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < width; ++i) {
        const double gate = in[static_cast<size_t>(t * 2 * width + i)],
                     up = in[static_cast<size_t>(t * 2 * width + width + i)];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        EXPECT_NEAR(out[static_cast<size_t>(t * width + i)], expected, 4e-6 * std::abs(expected) + 1e-30)
            << gate;
      }
  }
}

TEST(SiluGate, IsFiniteAtTheEnds) {
  const float in[] = {-1e30f, -200, -88, 0, 88, 200, 1e18f, 1, 1, 1, 1, 1, 1, 1};
  float out[7];
  silu_gate(in, out, 1, 7, 1);
  for (float value : out) EXPECT_TRUE(std::isfinite(value));
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_FLOAT_EQ(out[5], 200.0f);
}

}  // namespace
}  // namespace lamina

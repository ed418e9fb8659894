#include "kernels/small_floats.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/reference.hpp"

namespace lamina {
namespace {

TEST(E4m3, SaysTheNumbersOfTheFormat) {
  EXPECT_EQ(float_of_e4m3(0x00), 0.0f);
  EXPECT_EQ(float_of_e4m3(0x01), std::ldexp(1.0f, -9));  // the least subnormal
  EXPECT_EQ(float_of_e4m3(0x08), std::ldexp(1.0f, -6));  // the least normal
  EXPECT_EQ(float_of_e4m3(0x38), 1.0f);
  EXPECT_EQ(float_of_e4m3(0x3c), 1.5f);
  EXPECT_EQ(float_of_e4m3(0x7e), kLargestE4m3);
  EXPECT_EQ(float_of_e4m3(0xfe), -kLargestE4m3);
  EXPECT_TRUE(std::isnan(float_of_e4m3(0x7f)));
}

TEST(E4m3, RoundsToTheNearestAndTiesToEven) {
  for (int code = 0; code < 127; ++code) {
    const float here = float_of_e4m3(static_cast<uint8_t>(code));
    EXPECT_EQ(e4m3_of_float(here), code);
    EXPECT_EQ(e4m3_of_float(-here), code | 128);
    if (code == 126) break;
    const float next = float_of_e4m3(static_cast<uint8_t>(code + 1)), middle = (here + next) / 2;
    EXPECT_EQ(e4m3_of_float(middle), code + code % 2) << code;
    EXPECT_EQ(e4m3_of_float(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(e4m3_of_float(std::nextafter(middle, 1e9f)), code + 1);
  }
  EXPECT_EQ(e4m3_of_float(1e30f), 0x7e);
  EXPECT_EQ(e4m3_of_float(-460.0f), 0xfe);
}

TEST(Bfloat16, RoundsToTheNearestAndTiesToEven) {
  EXPECT_EQ(to_bfloat16(1.0f), 1.0f);
  const float step = std::ldexp(1.0f, -7);  // of bfloat16 above 1
  EXPECT_EQ(to_bfloat16(1 + step / 2), 1.0f);
  EXPECT_EQ(to_bfloat16(1 + 3 * step / 2), 1 + 2 * step);
  EXPECT_EQ(to_bfloat16(1 + 0.6f * step), 1 + step);
  EXPECT_EQ(to_bfloat16(-1 - 0.6f * step), -1 - step);
  EXPECT_EQ(to_bfloat16(1 + step / 2 + std::ldexp(1.0f, -23)), 1 + step);
}

TEST(Bfloat16, KeepsWhatIsFiniteFiniteAndWhatIsNotAsItIs) {
  constexpr float kMost = std::numeric_limits<float>::max(),
                  kInfinity = std::numeric_limits<float>::infinity();
  const float largest = std::ldexp(255.0f, 120);
  EXPECT_EQ(to_bfloat16(kMost), largest);
  EXPECT_EQ(to_bfloat16(-kMost), -largest);
  EXPECT_EQ(to_bfloat16(std::nextafter(largest, 0.0f)), largest);
  EXPECT_EQ(to_bfloat16(kInfinity), kInfinity);
  EXPECT_EQ(to_bfloat16(-kInfinity), -kInfinity);
  for (uint32_t bits : {0x7fc00000u, 0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    EXPECT_TRUE(std::isnan(to_bfloat16(std::bit_cast<float>(bits)))) << bits;
}

TEST(Bfloat16, TakesSubnormalNumbersForZeros) {
  constexpr float kLeast = std::numeric_limits<float>::min();
  EXPECT_EQ(to_bfloat16(kLeast), kLeast);
  EXPECT_EQ(to_bfloat16(std::nextafter(kLeast, 0.0f)), 0.0f);
  EXPECT_EQ(to_bfloat16(-std::numeric_limits<float>::denorm_min()), 0.0f);
}

// The reference works by arithmetic, kernels by bits.
TEST(Bfloat16, IsTheReferencesRule) {
  std::vector<float> values = {0.0f, -0.0f, 1e-30f, -1e-30f, 0.99e-30f, 1e-38f, 1e-44f, 3.4e38f, -3.39e38f};
  for (uint32_t high = 0; high < 0x7f80u; high += 37)
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      for (uint32_t sign : {0u, 0x80000000u}) values.push_back(std::bit_cast<float>(high << 16 | low | sign));
  Matrix<float> x(1, static_cast<int64_t>(values.size()));
  std::ranges::copy(values, x.data.begin());
  const Matrix<double> rounded = reference_activations(x, ActivationRule::bf16, {});
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(bf16_activation(values[i]), rounded.data[i]) << values[i];
}

// Every float16 comes back; what lies between two goes to the nearer one, a tie to the even one; what is too
// large stays finite.
TEST(Float16, RoundsToNearest) {
  for (uint32_t code = 0; code < 0x7c00u; ++code) {
    for (const uint32_t sign : {0u, 0x8000u}) {
      const auto own = static_cast<uint16_t>(code | sign);
      EXPECT_EQ(finite_f16_of_float(float_of_f16(own)), own);
    }
    if (code == 0x7bffu) break;
    const float below = float_of_f16(static_cast<uint16_t>(code)),
                above = float_of_f16(static_cast<uint16_t>(code + 1)), middle = below + (above - below) / 2;
    EXPECT_EQ(finite_f16_of_float(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(finite_f16_of_float(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(finite_f16_of_float(std::nextafter(middle, 1e9f)), code + 1);
  }
  EXPECT_EQ(to_float16(1e30f), 65504.0f);
  EXPECT_EQ(to_float16(-65519.0f), -65504.0f);
  EXPECT_EQ(to_float16(1e-9f), 0.0f);
  EXPECT_TRUE(std::isnan(to_float16(std::nanf(""))));
  EXPECT_TRUE(std::isinf(to_float16(std::numeric_limits<float>::infinity())));
}

}  // namespace
}  // namespace lamina

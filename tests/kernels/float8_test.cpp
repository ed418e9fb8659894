#include "kernels/compress/float8.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

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
  EXPECT_TRUE(std::isfinite(to_bfloat16(std::numeric_limits<float>::max())));
}

}  // namespace
}  // namespace lamina

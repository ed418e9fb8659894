#include "kernels/cpu/core_clock.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace lamina {
namespace {

TEST(CoreClock, IsThatOfAProcessor) {
#if defined(__x86_64__) || defined(__aarch64__)
  std::vector<double> readings;
  for (int i = 0; i < 50; ++i) readings.push_back(core_clock_mhz());
  const double best = *std::max_element(readings.begin(), readings.end());
  EXPECT_GT(best, 400) << "slower than any processor this runs on";
  EXPECT_LT(best, 8000) << "several additions a cycle: the chain is not one";
  for (const double one : readings) EXPECT_GT(one, 0);
#else
  EXPECT_EQ(core_clock_mhz(), 0);
#endif
}

}  // namespace
}  // namespace lamina

#include "kernels/cpu/core_clock.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "kernels/cpu/slowdown.hpp"

namespace lamina {
namespace {

double us(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

// The least of many tries, since other programs only make one longer.
double least_us(const std::function<void()>& work) {
  double least = 1e9;
  for (int i = 0; i < 300; ++i) least = std::min(least, us(work));
  return least;
}

struct Bounds {
  double low, high;
  bool hold(double ratio) const { return ratio > low && ratio < high; }
};

// Times one over the other's, both by turns. What else the machine does may slow one for as long as all tries
// take: so a ratio outside the bounds is looked at again, up to 30 times. One that is wrong stays outside.
double ratio_of(const std::function<void()>& one, const std::function<void()>& other, Bounds bounds) {
  double ratio = 0;
  for (int look = 0; look < 30 && !bounds.hold(ratio); ++look) {
    double least = 1e9, least_other = 1e9;
    for (int i = 0; i < 300; ++i) {
      least = std::min(least, us(one));
      least_other = std::min(least_other, us(other));
    }
    ratio = least / least_other;
  }
  return ratio;
}

#if defined(__x86_64__)
// 3 cycles each, on any processor that has AVX2.
void multiply(int64_t times) {
  unsigned long product = 3;
  const unsigned long factor = 5;
  for (int64_t i = 0; i < times; ++i) asm volatile("imul %1, %0" : "+r"(product) : "r"(factor));
}

TEST(CoreClock, TakesTheCyclesItSays) {
  const Bounds bounds{0.8, 1.25};
  const double ratio = ratio_of([] { multiply(20'000); }, [] { spend_cycles(60'000); }, bounds);
  EXPECT_TRUE(bounds.hold(ratio)) << ratio;
}
#endif

TEST(CoreClock, IsKnownWhereCyclesAreCounted) {
  const Bounds bounds{0.8, 1.25};
  double ratio = 0;
  for (int look = 0; look < 30 && !bounds.hold(ratio); ++look) {
    double best = 0;
    for (int i = 0; i < 50; ++i) best = std::max(best, core_clock_mhz());
    ASSERT_EQ(best > 0, counts_cycles());
    if (!counts_cycles()) return;
    ratio = best / (1e5 / least_us([] { spend_cycles(100'000); }));
  }
  EXPECT_TRUE(bounds.hold(ratio)) << ratio;
}

TEST(SlowDown, LastsLongerByItsShare) {
  int calls = 0;
  const auto work = [&] {
    ++calls;
    spend_cycles(10'000);
  };
  const auto slowed = [&] {
    for (int i = 0; i < 20; ++i) slow_down(&calls, 1, 0.5, work);
  };
  const auto plain = [&] {
    for (int i = 0; i < 20; ++i) work();
  };
  slowed();
  EXPECT_EQ(calls, 20);
  const Bounds bounds{1.3, 1.7};
  const double ratio = ratio_of(slowed, plain, bounds);
  EXPECT_TRUE(bounds.hold(ratio)) << ratio;
}

}  // namespace
}  // namespace lamina

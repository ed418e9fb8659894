#include "kernels/cpu/core_clock.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "kernels/cpu/slowdown.hpp"

namespace lamina {
namespace {

// Of many tries, since other programs only make one longer.
double least_us(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  double least = 1e9;
  for (int i = 0; i < 300; ++i) {
    const auto begin = Clock::now();
    work();
    least = std::min(least, std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
  }
  return least;
}

#if defined(__x86_64__)
// 3 cycles each, on any processor that has AVX2. Many a round: of one, Zen 3 took 4 in one process of fifty,
// from its first try to its last.
void multiply(int64_t times) {
  unsigned long product = 3;
  const unsigned long factor = 5;
  for (int64_t i = 0; i < times / 32; ++i)
    asm volatile(".rept 32\n\timul %1, %0\n\t.endr" : "+r"(product) : "r"(factor));
}

TEST(CoreClock, TakesTheCyclesItSays) {
  const double ratio = least_us([] { multiply(20'000); }) / least_us([] { spend_cycles(60'000); });
  EXPECT_GT(ratio, 0.8);
  EXPECT_LT(ratio, 1.25);
}
#endif

TEST(CoreClock, IsKnownWhereCyclesAreCounted) {
  double best = 0;
  for (int i = 0; i < 50; ++i) best = std::max(best, core_clock_mhz());
  EXPECT_EQ(best > 0, counts_cycles());
  if (!counts_cycles()) return;
  const double mhz = 1e5 / least_us([] { spend_cycles(100'000); });
  EXPECT_GT(best, 0.8 * mhz);
  EXPECT_LT(best, 1.25 * mhz);
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
  const double once = least_us([&] {
    for (int i = 0; i < 20; ++i) work();
  });
  calls = 0;
  slowed();
  EXPECT_EQ(calls, 20);
  const double ratio = least_us(slowed) / once;
  EXPECT_GT(ratio, 1.3);
  EXPECT_LT(ratio, 1.7);
}

}  // namespace
}  // namespace lamina

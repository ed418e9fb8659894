// Ranks that time together stop together, whichever of them is slow.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "bench/sampler.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

TEST(Sampling, OneRanksLateSlowStepEndsTheSeriesOnAll) {
  Series stuck, fine;
  int calls = 0;
  const bool last = world().rank() == world().size() - 1;
  stuck.step = [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(last && ++calls == 12 ? 700 : 5));
  };
  fine.step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  stuck.rule = {0, 30, 10, 0.5};
  fine.rule = {0, 30, 0.1, 10};
  std::vector<Series*> all = {&stuck, &fine};
  sample(all, world(), 1, [](int, const std::string&) {});
  EXPECT_TRUE(stuck.timed_out());
  EXPECT_EQ(fine.stop_reason, "max_seconds");
  for (const Series* one : all) {
    const auto samples = static_cast<double>(one->samples_us.size());
    EXPECT_EQ(samples, world().max(samples));
    EXPECT_EQ(world().sum(samples), samples * world().size());
    EXPECT_EQ(one->iterations_per_sample,
              static_cast<int64_t>(world().max(static_cast<double>(one->iterations_per_sample))));
  }
}

}  // namespace
}  // namespace lamina

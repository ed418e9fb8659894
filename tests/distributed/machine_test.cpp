#include "bench/machine.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

TEST(Machine, IsTheSameOnEveryRank) {
  const Machine machine = inspect_machine(world(), 1, "cold");
  ASSERT_EQ(machine.places.size(), static_cast<size_t>(world().size()));
  const auto threads = static_cast<double>(machine.launch.default_threads);
  EXPECT_EQ(world().max(threads), threads);
  const auto bytes = static_cast<double>(machine.available_bytes_for(world().size()));
  EXPECT_EQ(world().max(bytes), bytes);
  EXPECT_LE(bytes, static_cast<double>(machine.available_bytes_for(1)));
}

// What the ranks did themselves must not look like someone else's work.
TEST(Machine, RanksSleepWhileTheyLookForOthersWork) {
  const Machine machine = inspect_machine(world(), 1, "cold");
  const std::clock_t cpu = std::clock();
  if (world().rank() == world().size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  busy_warnings(machine, world());
  EXPECT_LT(static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC, 0.1);
}

}  // namespace
}  // namespace lamina

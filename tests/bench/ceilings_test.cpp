#include "bench/ceilings.hpp"

#include <gtest/gtest.h>

namespace lamina {
namespace {

CeilingValues two_ranks() {
  CeilingValues values;
  values.ranks = 2;
  values.threads = 1;
  values.read_gb_per_s = {{1, 20.0}};
  values.fp32_gflops = 200;
  values.int8_gops = 400;
  values.all_reduce_latency_us = 1;
  values.all_reduce_gb_per_s = 5;
  return values;
}

TEST(Limit, MemoryBound) {
  // 10 MB on a rank that has half of 20 GB/s: 1000 µs; 1e6 operations of 100 GFLOP/s: 10 µs.
  const Limit limit = limit_of(two_ranks(), 10e6, 1e6, false, 0, 0);
  EXPECT_EQ(limit.kind, "memory");
  EXPECT_NEAR(limit.us, 1000, 1e-6);
}

TEST(Limit, ComputeBoundByItsOwnRate) {
  EXPECT_NEAR(limit_of(two_ranks(), 1e3, 1e9, false, 0, 0).us, 10000, 1e-6);
  const Limit integer = limit_of(two_ranks(), 1e3, 1e9, true, 0, 0);
  EXPECT_NEAR(integer.us, 5000, 1e-6);
  EXPECT_EQ(integer.kind, "compute");
}

TEST(Limit, TheNetworkComesOnTop) {
  const Limit limit = limit_of(two_ranks(), 10e3, 1e3, false, 1e6, 2);
  EXPECT_EQ(limit.kind, "network");
  EXPECT_NEAR(limit.us, 1 + 2 + 200, 1e-6);
}

TEST(Ceilings, AreMeasuredAndPlausible) {
  auto comm = make_self_communicator();
  Ceilings ceilings(*comm, 1, 1 << 20, {0.5, 5, 0.02, 10});
  std::vector<Series*> series = ceilings.series();
  sample(series, *comm, 1, [](int) {});
  const CeilingValues values = ceilings.values();
  EXPECT_EQ(values.all_reduce_latency_us, 0);
  // Any machine that builds this reads above 100 MB/s and below 10 TB/s, and so on: a unit slip would show.
  EXPECT_GT(values.read_gb_per_s.at(1), 0.1);
  EXPECT_LT(values.read_gb_per_s.at(1), 10000);
  EXPECT_GT(values.fp32_gflops, 0.05);
  EXPECT_LT(values.fp32_gflops, 1000);
  EXPECT_GT(values.int8_gops, 0.05);
  EXPECT_LT(values.int8_gops, 4000);
}

}  // namespace
}  // namespace lamina

#include "bench/ceilings.hpp"

#include <gtest/gtest.h>

namespace lamina {
namespace {

CeilingValues two_ranks() {
  CeilingValues values;
  values.ranks = 2;
  values.threads = 1;
  values.read_gb_per_s = {{1, 20.0}};
  values.gops[Arithmetic::f32] = 200;
  values.gops[Arithmetic::bf16] = 250;
  values.gops[Arithmetic::int8] = 400;
  values.gops[Arithmetic::int4] = 800;
  values.gops[Arithmetic::int8_24] = 160;
  values.all_reduce_latency_us = 1;
  values.all_reduce_gb_per_s = 5;
  return values;
}

TEST(Limit, MemoryBound) {
  // 10 MB on a rank that has half of 20 GB/s: 1000 µs; 1e6 operations of 100 GFLOP/s: 10 µs.
  const Limit limit = limit_of(two_ranks(), 10e6, {Arithmetic::f32, 1e6}, 0, 0);
  EXPECT_EQ(limit.kind, "memory");
  EXPECT_NEAR(limit.us, 1000, 1e-6);
}

TEST(Limit, ComputeBoundByItsOwnRate) {
  const auto us = [](Arithmetic kind) { return limit_of(two_ranks(), 1e3, {kind, 1e9}, 0, 0).us; };
  EXPECT_NEAR(us(Arithmetic::f32), 10000, 1e-6);
  EXPECT_NEAR(us(Arithmetic::bf16), 8000, 1e-6);
  EXPECT_NEAR(us(Arithmetic::int8), 5000, 1e-6);
  EXPECT_NEAR(us(Arithmetic::int4), 2500, 1e-6);
  EXPECT_NEAR(us(Arithmetic::int8_24), 12500, 1e-6);
  EXPECT_EQ(limit_of(two_ranks(), 1e3, {Arithmetic::int8, 1e9}, 0, 0).kind, "compute");
}

// A chain of int8 after float32 takes both their times.
TEST(Limit, KindsOfArithmeticAddUp) {
  Cost chain{.operations = {Arithmetic::f32, 1e9}, .read_bytes = 600, .write_bytes = 100};
  chain += {.operations = {Arithmetic::int8, 1e9}, .read_bytes = 200, .write_bytes = 100};
  EXPECT_EQ(chain.operations.total(), 2e9);
  EXPECT_EQ(chain.read_bytes, 800);
  EXPECT_EQ(chain.write_bytes, 200);
  EXPECT_NEAR(limit_of(two_ranks(), 1e3, chain.operations, 0, 0).us, 15000, 1e-6);
}

TEST(Limit, TheNetworkComesOnTop) {
  const Limit limit = limit_of(two_ranks(), 10e3, {Arithmetic::f32, 1e3}, 1e6, 2);
  EXPECT_EQ(limit.kind, "network");
  EXPECT_NEAR(limit.us, 1 + 2 + 200, 1e-6);
}

TEST(Ceilings, AreMeasuredAndPlausible) {
  auto comm = make_self_communicator();
  Ceilings ceilings(*comm, 1, 1 << 20, {0.5, 5, 0.02, 10}, *find_device("cpu"), nullptr);
  std::vector<Series*> series = ceilings.series();
  sample(series, *comm, 1, [](int, const std::string&) {});
  const CeilingValues values = ceilings.values();
  EXPECT_EQ(values.all_reduce_latency_us, 0);
  // Any machine that builds this reads above 100 MB/s and below 10 TB/s, and so on: a unit slip would show.
  EXPECT_GT(values.read_gb_per_s.at(1), 0.1);
  EXPECT_LT(values.read_gb_per_s.at(1), 10000);
  EXPECT_GT(values.gops[Arithmetic::f32], 0.05);
  EXPECT_LT(values.gops[Arithmetic::f32], 1000);
  for (Arithmetic kind : kArithmetics) {
    EXPECT_GT(values.gops[kind], 0.05);
    EXPECT_LT(values.gops[kind], 10000);
  }
}

}  // namespace
}  // namespace lamina

// What gates of many launches call: simulated ones, and banks of recorded ones.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "bench/compare/ab.hpp"
#include "bench/compare/selftest.hpp"
#include "tests/bench/compare_sides.hpp"

namespace lamina::compare {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

// The first launches of a side.
Side first_of(const Side& side, int64_t count) {
  Side first = side;
  first.launches.resize(static_cast<size_t>(count));
  return first;
}

struct Called {
  int64_t rows = 0, gates = 0, launches = 0;
};

// How many rows, and gates of 10 rows, are called slower or faster, with looks as `lamina ab` takes them.
// Pairs drift by 3 %, launches differ by 1 %, rows within by 1 %.
Called called(int gates, const std::vector<Look>& looks, double slowdown) {
  std::mt19937_64 random(7);
  std::normal_distribution<double> normal;
  Called result;
  for (int gate = 0; gate < gates; ++gate) {
    Side base{"base", {}}, next{"new", {}};
    for (int64_t i = 0; i < looks.back().pairs; ++i) {
      const double drift = 0.03 * normal(random);
      for (Side* side : {&base, &next}) {
        std::vector<double> times;
        const double shared = drift + 0.01 * normal(random);
        for (int k = 0; k < 10; ++k)
          times.push_back(100 * std::exp(shared + 0.01 * normal(random)) * (side == &next ? slowdown : 1));
        side->launches.push_back(launch_of(fmt::format("{}{}", side->path, i), times));
        side->launches.back().started = fmt::format("2026-01-01T00:{:02}:{:02}Z", i, side == &next ? 30 : 10);
      }
    }
    for (const Look& look : looks) {
      Settings settings;
      settings.share = look.share;
      const Comparison comparison = compare(first_of(base, look.pairs), first_of(next, look.pairs), settings);
      EXPECT_TRUE(comparison.paired);
      if (!comparison.decided() && look.pairs < looks.back().pairs) continue;
      const int64_t rows = comparison.count(Verdict::slower) + comparison.count(Verdict::faster);
      result.rows += rows;
      result.gates += rows > 0;
      result.launches += look.pairs;
      break;
    }
  }
  return result;
}

// docs/regression.md gives these rates, of more gates.
TEST(Simulation, FalseAlarmsAreRareAndFivePercentAreFound) {
  for (const auto& looks : {std::vector<Look>{{3, 1}}, {{5, 1}}, {{10, 1}}, looks_of(15)}) {
    const Called alarms = called(400, looks, 1);
    EXPECT_LE(alarms.rows, 400 * 10 / 100) << "of 4000 rows";
    // Alpha is 1 %, so 4 are expected at most, and their deviation is 2.
    EXPECT_LE(alarms.gates, 4 + 6) << "of 400 gates of " << looks.back().pairs << " pairs";
  }
  EXPECT_GE(called(100, {{10, 1}}, 1.05).rows, 950) << "of 1000 rows that are 5 % slower";
  const Called in_looks = called(100, looks_of(15), 1.05);
  EXPECT_GE(in_looks.rows, 950);
  EXPECT_LT(in_looks.launches, 100 * 15) << "stops early";
}

// docs/regression.md's table: bench_test --gtest_also_run_disabled_tests --gtest_filter='*PrintsTheTable*', a
// minute.
TEST(Simulation, DISABLED_PrintsTheTableOfTheDocs) {
  for (const auto& looks : {std::vector<Look>{{3, 1}}, {{5, 1}}, {{10, 1}}, {{15, 1}}, looks_of(15)}) {
    const Called alarms = called(4000, looks, 1);
    fmt::print("{} pairs, {} looks: {} gates, {} rows, {:.1f} pairs;", looks.back().pairs, looks.size(),
               alarms.gates, alarms.rows, static_cast<double>(alarms.launches) / 4000);
    for (const double slowdown : kInjected) {
      const Called found = called(1000, looks, 1 + slowdown);
      fmt::print(" {:.3g} % ({:.1f} pairs)", static_cast<double>(found.rows) / 100,
                 static_cast<double>(found.launches) / 1000);
    }
    fmt::print("\n");
  }
}

// A bank of launches of one build: 4 rows that differ by `noise` from launch to launch.
Pair bank_of(int launches, double noise) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal(0, noise);
  Pair bank(0);
  for (int i = 0; i < launches; ++i)
    for (Side* side : {&bank.base, &bank.next}) {
      std::vector<double> times;
      for (int k = 0; k < 4; ++k) times.push_back(100 * std::exp(normal(random)));
      side->launches.push_back(launch_of(fmt::format("{}{}", side->path, i), times));
      side->launches.back().started =
          fmt::format("2026-01-01T00:{:02}:{:02}Z", i, side == &bank.next ? 30 : 10);
    }
  return bank;
}

Bank only(const Pair& pair) {
  return {pair.base, pair.next, {}};
}

TEST(Selftest, SaysHowManyLaunchesAGateTakes) {
  const Bank quiet = only(bank_of(30, 0.005)), noisy = only(bank_of(30, 0.1));
  const std::vector<Rate> rates = rates_of(quiet, {});
  ASSERT_EQ(rates.front().pairs, 3);
  EXPECT_EQ(rates.front().apart_gates, 10);
  EXPECT_EQ(rates.front().apart_rows, 40);
  EXPECT_EQ(rates.back().pairs, 30);
  EXPECT_THAT(rates.back().found, SizeIs(0)) << "one gate alone can be drawn of all pairs";
  for (const Rate& rate : rates) {
    EXPECT_LE(rate.false_rows * 100, rate.rows) << rate.pairs;
    for (size_t i = 1; i < rate.found.size(); ++i) EXPECT_GE(rate.found[i], rate.found[i - 1]);
  }
  EXPECT_EQ(enough_pairs(rates), 5);
  const Rate& ten = rates[3];
  ASSERT_EQ(ten.pairs, 10);
  EXPECT_GE(ten.ab_found * 20, ten.gates * 19) << "nearly all, in fewer pairs";
  EXPECT_LT(ten.ab_pairs, 10 * ten.gates);
  EXPECT_EQ(ten.ab_undecided, 0);
  EXPECT_LE(ten.ab_false * 100, ten.gates);
  EXPECT_THAT(selftest_text(quiet, rates, {}), HasSubstr("worth having here: --launches 5"));
  EXPECT_THAT(selftest_text(quiet, rates, {}), Not(HasSubstr("made slower")));
  const std::vector<Rate> bad = rates_of(noisy, {});
  EXPECT_EQ(enough_pairs(bad), 0);
  EXPECT_EQ(bad[3].ab_undecided, bad[3].gates);
  EXPECT_THAT(selftest_text(noisy, bad, {}), HasSubstr("No gate of these sizes"));
  EXPECT_THROW(rates_of({quiet.base, quiet.base, {}}, {}), std::runtime_error) << "one launch twice";
}

TEST(Selftest, TriesRowsOfSlowerBuildsOneAtATime) {
  Bank bank = only(bank_of(30, 0.005));
  // Each row of the first is slower, by 5 % as recorded; the second's launches are as fast as any.
  Side slow = bank_of(30, 0.005).base, same = slow;
  for (Launch& launch : slow.launches)
    for (auto& [name, row] : launch.rows) {
      row.time_us *= 1.05;
      row.kernel = "native avx2";
    }
  for (Launch& launch : same.launches)
    for (auto& [name, row] : launch.rows) row.kernel = "native avx2";
  for (Side* side : {&slow, &same})
    for (Launch& launch : side->launches) launch.run_id += side == &slow ? "slow" : "same";
  for (const double ratio : slowdowns(bank.base, slow)) EXPECT_NEAR(ratio, 1.05, 1e-9);
  bank.slow = {slow, same};
  const std::vector<Rate> rates = rates_of(bank, {});
  ASSERT_EQ(rates[3].pairs, 10);
  EXPECT_EQ(rates[3].slow[0].apart, 3 * 4) << "three gates of ten pairs, four rows";
  EXPECT_EQ(rates[3].slow[0].apart_found, 12);
  EXPECT_EQ(rates[3].slow[0].drawn_found, rates[3].slow[0].drawn);
  EXPECT_EQ(rates[3].slow[1].apart_found, 0);
  EXPECT_THAT(selftest_text(bank, rates, {}), HasSubstr("|    10 | 100.0 % of 12 | 100.0 % | 0.0 % of 12 |"));
  const std::string times = times_text(bank);
  EXPECT_THAT(times, HasSubstr("\n30,slow-2,2026-01-01T00:29:10Z,"));
  EXPECT_EQ(std::count(times.begin(), times.end(), '\n'), 1 + 4 * 30 * 4);
  bank.slow[0].launches[0].rows.rbegin()->second.kernel = "openblas";
  EXPECT_EQ(rates_of(bank, {})[3].slow[0].apart, 3 * 3) << "a library is not made slower";
  bank.slow[0].launches[4].rows.begin()->second.time_us = 0;
  EXPECT_EQ(rates_of(bank, {})[3].slow[0].apart, 3 * 2) << "and a row without a time is left out";
}

TEST(Looks, ShareAlpha) {
  for (const int64_t launches : {2, 4, 5, 6, 10, 15, 1000}) {
    double share = 0;
    int64_t pairs = 1;
    for (const Look& look : looks_of(launches)) {
      EXPECT_GT(look.pairs, pairs) << "one pair decides nothing, and each look has more";
      pairs = look.pairs;
      share += look.share;
    }
    EXPECT_EQ(pairs, launches);
    EXPECT_NEAR(share, 1, 1e-12);
  }
}

}  // namespace
}  // namespace lamina::compare

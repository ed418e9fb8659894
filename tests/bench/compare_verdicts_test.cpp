#include "bench/compare/verdicts.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "bench/compare/ab.hpp"
#include "bench/compare/report.hpp"
#include "bench/compare/selftest.hpp"
#include "bench/runner.hpp"

namespace lamina::compare {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

// A launch of rows a, b, … with these times.
Launch launch_of(const std::string& id, const std::vector<double>& times_us) {
  Launch launch;
  launch.name = launch.run_id = id;
  for (size_t i = 0; i < times_us.size(); ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    LaunchRow row;
    row.status = "ok";
    row.time_us = times_us[i];
    row.quality = 1e-3;
    launch.cases.push_back(name);
    launch.rows[name] = row;
  }
  launch.facts = {{"config", "c", Weight::refused}, {"CPU", "x", Weight::machine}, {"host", "h"}};
  return launch;
}

// Two sides of `count` launches each, one row, times that differ by a part in a thousand; NEW slower by `by`.
struct Pair {
  Side base{"base", {}}, next{"new", {}};
  explicit Pair(int count, double by = 1) {
    for (int i = 0; i < count; ++i) {
      const double wave = 1 + 0.001 * (i % 3);
      base.launches.push_back(launch_of(fmt::format("b{}", i), {100 * wave}));
      next.launches.push_back(launch_of(fmt::format("n{}", i), {100 * by * (2 - wave)}));
    }
  }
  Comparison compared(const Settings& settings = {}) const { return compare(base, next, settings); }
  LaunchRow& row(int launch) { return next.launches[static_cast<size_t>(launch)].rows["a"]; }
};

Verdict verdict_of(const Pair& pair, const Settings& settings = {}) {
  const Comparison result = pair.compared(settings);
  EXPECT_THAT(result.rows, SizeIs(1)) << testing::PrintToString(result.refusals);
  return result.rows.empty() ? Verdict::skipped : result.rows[0].verdict;
}

TEST(Verdicts, SlowerAndFasterBeyondTheFloor) {
  EXPECT_EQ(verdict_of(Pair(5)), Verdict::ok);
  EXPECT_EQ(verdict_of(Pair(5, 1.05)), Verdict::slower);
  EXPECT_EQ(verdict_of(Pair(5, 1 / 1.05)), Verdict::faster);
  EXPECT_EQ(verdict_of(Pair(5, 1.018)), Verdict::ok) << "certain, but under the floor";
  Settings settings;
  settings.floor = 0.005;
  EXPECT_EQ(verdict_of(Pair(5, 1.018), settings), Verdict::slower);
  EXPECT_EQ(Pair(5, 1.05).compared().exit_code(), kExitRegression);
  EXPECT_EQ(Pair(5, 0.9).compared().exit_code(), kExitOk);
}

TEST(Verdicts, NoisyLaunchesAreInconclusiveAndSayWhatTheyCouldHaveSeen) {
  Pair pair(4);
  for (int i = 0; i < 4; ++i) pair.row(i).time_us *= i % 2 ? 1.1 : 0.9;
  const Comparison result = pair.compared();
  EXPECT_EQ(result.rows[0].verdict, Verdict::inconclusive);
  EXPECT_GT(result.rows[0].visible, 0.1);
  EXPECT_EQ(result.exit_code(), kExitInconclusive);
  EXPECT_THAT(verdict_text(result.rows[0]), HasSubstr("could have seen"));
}

TEST(Verdicts, OneLaunchCannotDecide) {
  const Comparison result = Pair(1, 2).compared();
  EXPECT_EQ(result.rows[0].verdict, Verdict::inconclusive);
  EXPECT_EQ(result.exit_code(), kExitInconclusive);
  EXPECT_NEAR(result.rows[0].ratio, 2, 1e-12) << "told, but not judged";
  EXPECT_THAT(terminal_report(result, false), HasSubstr("One launch a side cannot decide"));
}

TEST(Verdicts, OneBadLaunchOfManyMakesARowInvalid) {
  Pair pair(3);
  for (const char* status : {"invalid", "error", "timeout", "", "perfect"}) {
    pair.row(1).status = status;
    const Comparison result = pair.compared();
    EXPECT_EQ(result.rows[0].verdict, Verdict::invalid) << status;
    EXPECT_THAT(result.rows[0].reason, HasSubstr("1 of 3 launches")) << status;
    EXPECT_EQ(result.exit_code(), kExitMissing);
  }
}

TEST(Verdicts, MissingSkippedAndAddedRows) {
  Pair pair(3);
  pair.next.launches[2].rows.clear();
  EXPECT_EQ(verdict_of(pair), Verdict::missing) << "in one launch alone";
  Pair skipped(3);
  skipped.row(0).status = "skipped";
  EXPECT_EQ(verdict_of(skipped), Verdict::missing) << "was measured before";
  Pair more(3);
  for (Launch& launch : more.next.launches) {
    launch.rows["b"] = launch.rows["a"];
    launch.cases.push_back("b");
  }
  const Comparison result = more.compared();
  EXPECT_EQ(result.rows[1].verdict, Verdict::added);
  EXPECT_EQ(result.exit_code(), kExitOk);
}

TEST(Verdicts, RowsWithoutATimeOnBothSidesCompareNothing) {
  Pair pair(3);
  for (Side* side : {&pair.base, &pair.next})
    for (Launch& launch : side->launches) launch.rows["a"].status = "skipped";
  const Comparison result = pair.compared();
  EXPECT_EQ(result.exit_code(), kExitUsage);
  EXPECT_THAT(result.refusals[0], HasSubstr("nothing to compare"));
}

TEST(Verdicts, WorseQualityIsARegression) {
  Pair pair(3);
  pair.row(2).quality = 1.2e-3;  // in one launch: an error that comes and goes
  Comparison result = pair.compared();
  EXPECT_EQ(result.rows[0].verdict, Verdict::ok);
  EXPECT_EQ(result.rows[0].quality, Quality::worse);
  EXPECT_EQ(result.exit_code(), kExitRegression);
  pair.row(2).quality = 1.05e-3;
  EXPECT_EQ(pair.compared().rows[0].quality, Quality::same);
  Settings strict;
  strict.quality_factor = 1.01;
  EXPECT_EQ(pair.compared(strict).rows[0].quality, Quality::worse);
  pair.row(2).quality = -1;
  EXPECT_EQ(pair.compared().rows[0].verdict, Verdict::invalid) << "the error is not known any more";

  Pair rounding(3);
  for (Launch& launch : rounding.base.launches) launch.rows["a"].quality = 1e-13;
  for (int i = 0; i < 3; ++i) rounding.row(i).quality = 9e-13;
  EXPECT_EQ(rounding.compared().rows[0].quality, Quality::same) << "float32's rounding";
}

TEST(Verdicts, ExitCodesInTheirOrder) {
  Pair pair(3, 1.5);
  EXPECT_EQ(pair.compared().exit_code(), kExitRegression);
  for (Launch& launch : pair.base.launches) {
    launch.rows["b"] = launch.rows["a"];
    launch.cases.push_back("b");
  }
  EXPECT_EQ(pair.compared().exit_code(), kExitMissing);
  pair.next.launches[0].facts[0].value = "d";
  EXPECT_EQ(pair.compared().exit_code(), kExitUsage);
}

TEST(Verdicts, WhatForbidsAComparison) {
  Pair config(3);
  for (Launch& launch : config.next.launches) launch.facts[0].value = "d";
  EXPECT_THAT(config.compared().refusals[0], HasSubstr("config: BASE has c, NEW d"));

  Pair mixed(3);
  mixed.base.launches[1].facts[0].value = "d";
  EXPECT_THAT(mixed.compared().refusals[0], HasSubstr("expected one of all launches of BASE"));

  Pair machine(3);
  for (Launch& launch : machine.next.launches) launch.facts[1].value = "y";
  EXPECT_THAT(machine.compared().refusals[0], HasSubstr("--across-machines"));
  Settings across;
  across.across_machines = true;
  EXPECT_THAT(machine.compared(across).refusals, SizeIs(0));
  EXPECT_THAT(machine.compared(across).differences, SizeIs(1));

  Pair host(3);
  for (Launch& launch : host.next.launches) launch.facts[2].value = "i";
  EXPECT_THAT(host.compared().refusals, SizeIs(0));
  EXPECT_EQ(host.compared().differences[0].next, "i");

  Pair copies(3);
  copies.next.launches[0].run_id = "b0";
  EXPECT_THAT(copies.compared().refusals[0], HasSubstr("the same launch"));

  Pair shape(3);
  shape.row(0).shape = "ranks 2";
  EXPECT_THAT(shape.compared().refusals[0], HasSubstr("is not one case"));

  Pair none(3);
  for (Launch& launch : none.next.launches) {
    launch.rows["z"] = launch.rows["a"];
    launch.rows.erase("a");
    launch.cases = {"z"};
  }
  EXPECT_THAT(none.compared().refusals[0], HasSubstr("no rows in common"));
}

TEST(Verdicts, InterleavedLaunchesArePaired) {
  Pair pair(3);
  EXPECT_FALSE(pair.compared().paired) << "nobody knows when they ran";
  for (size_t i = 0; i < 3; ++i) {
    pair.base.launches[i].started = fmt::format("2026-01-01T00:0{}:10Z", i);
    pair.next.launches[i].started = fmt::format("2026-01-01T00:0{}:{}Z", i, i == 1 ? "05" : "40");
  }
  EXPECT_TRUE(pair.compared().paired) << "in either order within a pair";
  // A drift of the machine that pairs share: 20 % from pair to pair.
  for (size_t i = 0; i < 3; ++i)
    for (Side* side : {&pair.base, &pair.next})
      side->launches[i].rows["a"].time_us *= 1 + 0.2 * static_cast<double>(i);
  EXPECT_EQ(verdict_of(pair), Verdict::ok);
  std::swap(pair.next.launches[0].started, pair.next.launches[2].started);
  EXPECT_FALSE(pair.compared().paired);
  EXPECT_EQ(verdict_of(pair), Verdict::inconclusive);
}

TEST(Reports, ObeyNothingInNames) {
  Pair pair(3, 1.5);
  const std::string evil = "x|y`<img src=x>`\x1b[2J@you\n# title";
  for (Side* side : {&pair.base, &pair.next})
    for (Launch& launch : side->launches) {
      launch.rows[evil] = launch.rows["a"];
      launch.rows.erase("a");
      launch.cases = {evil};
    }
  const Comparison result = pair.compared();
  const std::string terminal = terminal_report(result, true), markdown = markdown_report(result);
  for (const std::string* text : {&terminal, &markdown}) {
    EXPECT_THAT(*text, Not(HasSubstr("\x1b")));
    EXPECT_THAT(*text, Not(HasSubstr("\n# title")));
  }
  // All of it in one code span: no backtick and no cell's end within.
  EXPECT_THAT(markdown, HasSubstr("`x\\x7cy\\x60<img src=x>\\x60\\x1b[2J@you\\x0a# title`"));
}

TEST(Reports, ChangesArePercentUntilTheyAreTooLarge) {
  EXPECT_EQ(change(1.051), "+5.1 %");
  EXPECT_EQ(change(1 / 1.051), "-4.9 %");
  EXPECT_EQ(change(123.4), "×123");
  EXPECT_EQ(change(kUnknown), "?");
}

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
  EXPECT_THAT(selftest_text(quiet, rates, {}), HasSubstr("worth having here: --launches 5"));
  EXPECT_THAT(selftest_text(quiet, rates, {}), Not(HasSubstr("made slower")));
  const std::vector<Rate> bad = rates_of(noisy, {});
  EXPECT_EQ(enough_pairs(bad), 0);
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

// A core whose clock moves: times differ by 10 % from launch to launch, cycles by a thousandth.
Pair of_moving_clock(double by) {
  Pair pair(6, by);
  for (Side* side : {&pair.base, &pair.next})
    for (size_t i = 0; i < side->launches.size(); ++i) {
      LaunchRow& row = side->launches[i].rows["a"];
      row.clock_mhz = 3000 + 300.0 * static_cast<double>((i * 7 + (side == &pair.next)) % 3);
      row.cycles = row.time_us * 3000;
      row.time_us = row.cycles / row.clock_mhz;
    }
  return pair;
}

TEST(Verdicts, CyclesOfAMovingClockDecideWhereTimesCannot) {
  Settings times;
  times.times_only = true;
  EXPECT_EQ(verdict_of(of_moving_clock(1.03)), Verdict::slower);
  EXPECT_EQ(verdict_of(of_moving_clock(1.0)), Verdict::ok);
  EXPECT_EQ(verdict_of(of_moving_clock(1.03), times), Verdict::inconclusive);
  const Comparison result = of_moving_clock(1.03).compared();
  EXPECT_TRUE(result.rows[0].by_cycles);
  EXPECT_NEAR(result.rows[0].ratio, 1.03, 0.005);
  EXPECT_THAT(terminal_report(result, false), HasSubstr("1 by their core's cycles"));
  EXPECT_THAT(json_report(result), HasSubstr("\"measure\": \"cycles\""));
}

TEST(Verdicts, ALaunchWithoutCyclesIsLeftOutSeveralAreNot) {
  Pair pair = of_moving_clock(1.03);
  pair.row(2).cycles = 0;
  const Comparison one = pair.compared();
  EXPECT_TRUE(one.rows[0].by_cycles);
  EXPECT_EQ(one.rows[0].verdict, Verdict::slower);
  EXPECT_THAT(one.rows[0].notes, testing::Contains(HasSubstr("in 5 of 6 of NEW")));
  pair.row(4).cycles = 0;
  EXPECT_FALSE(pair.compared().rows[0].by_cycles);
}

TEST(Verdicts, CyclesOfTwoMachinesAreNotCompared) {
  Settings settings;
  settings.across_machines = true;
  EXPECT_FALSE(of_moving_clock(1.03).compared(settings).rows[0].by_cycles);
}

// NEW takes `cycles` times the cycles at `clock` times the clock.
Comparison changed(double cycles, double clock) {
  Pair pair(6);
  for (Side* side : {&pair.base, &pair.next})
    for (Launch& launch : side->launches) {
      LaunchRow& row = launch.rows["a"];
      const bool later = side == &pair.next;
      row.clock_mhz = 3000 * (later ? clock : 1);
      row.cycles = row.time_us * 3000 * (later ? cycles : 1);
      row.time_us = row.cycles / row.clock_mhz;
    }
  return pair.compared();
}

TEST(Verdicts, MoreTimeInNoMoreCyclesIsSlowerAllTheSame) {
  const Comparison wider = changed(0.92, 0.85);
  EXPECT_TRUE(wider.rows[0].by_cycles);
  EXPECT_LT(wider.rows[0].ratio, 1);
  EXPECT_EQ(wider.rows[0].verdict, Verdict::slower) << "8 % fewer cycles, 8 % more time";
  EXPECT_THAT(wider.rows[0].notes, testing::Contains(HasSubstr("by its time, +8")));
  EXPECT_THAT(wider.rows[0].notes, testing::Contains(HasSubstr("its core ran at 3000 MHz")));
  EXPECT_EQ(changed(1, 0.9).rows[0].verdict, Verdict::slower);
  EXPECT_EQ(changed(0.9, 0.92).rows[0].verdict, Verdict::faster);
  EXPECT_EQ(changed(0.97, 0.965).rows[0].verdict, Verdict::inconclusive) << "fewer cycles, in no less time";
  EXPECT_EQ(changed(1, 1).rows[0].verdict, Verdict::ok);
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

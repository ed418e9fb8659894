#include "bench/compare/verdicts.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/compare/report.hpp"
#include "bench/runner.hpp"
#include "tests/bench/compare_sides.hpp"

namespace lamina::compare {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

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

}  // namespace
}  // namespace lamina::compare

#include "bench/history/history.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "bench/history/changes.hpp"

namespace lamina {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// `noise` is the relative standard deviation of what `times` gets.
void add_noisy(std::vector<double>& times, size_t count, double us, double noise, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  for (size_t i = 0; i < count; ++i) times.push_back(us * std::exp(noise * normal(random)));
}

std::vector<size_t> places(const std::vector<double>& times) {
  std::vector<size_t> list;
  for (const ChangePoint& change : change_points(times)) list.push_back(change.index);
  return list;
}

TEST(ChangePoints, FindsAStepAndItsSize) {
  std::vector<double> times;
  for (int i = 0; i < 20; ++i) times.push_back(i % 2 == 0 ? 100 : 101);
  for (int i = 0; i < 8; ++i) times.push_back(i % 2 == 0 ? 110 : 111.1);
  const std::vector<ChangePoint> changes = change_points(times);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].index, 20u);
  EXPECT_NEAR(changes[0].ratio, 1.1, 1e-9);
  EXPECT_LT(changes[0].low, 1.1);
  EXPECT_GT(changes[0].low, 1.09);
  EXPECT_GT(changes[0].high, 1.1);
  EXPECT_LT(changes[0].p, 1e-6);
}

TEST(ChangePoints, FindsSeveral) {
  std::mt19937_64 random(1);
  std::vector<double> times;
  for (const double us : {100.0, 110.0, 104.0, 90.0}) add_noisy(times, 15, us, 0.01, random);
  EXPECT_THAT(places(times), ElementsAre(15, 30, 45));
}

// The whole series' halves hardly differ: only a window shows it.
TEST(ChangePoints, FindsAShortStretchThatComesAndGoes) {
  std::mt19937_64 random(2);
  std::vector<double> times;
  add_noisy(times, 60, 100, 0.01, random);
  add_noisy(times, 8, 110, 0.01, random);
  add_noisy(times, 60, 100, 0.01, random);
  EXPECT_THAT(places(times), ElementsAre(60, 68));
}

TEST(ChangePoints, OneOddLaunchIsNone) {
  std::mt19937_64 random(3);
  std::vector<double> times;
  add_noisy(times, 40, 100, 0.01, random);
  times[20] = 180;
  EXPECT_THAT(places(times), IsEmpty());
  times[21] = 180;
  EXPECT_THAT(places(times), IsEmpty());
  times[20] = times[21] = 100;
  for (size_t i = 37; i < 40; ++i) times[i] = 180;
  EXPECT_THAT(places(times), ElementsAre(37));
}

TEST(ChangePoints, WhatIsLessThanTheFloorIsNone) {
  std::mt19937_64 random(4);
  std::vector<double> times;
  add_noisy(times, 50, 100, 0.001, random);
  add_noisy(times, 50, 101.5, 0.001, random);
  EXPECT_THAT(places(times), IsEmpty());
  for (size_t i = 50; i < 100; ++i) times[i] *= 1.01;
  EXPECT_THAT(places(times), ElementsAre(50));
}

TEST(ChangePoints, SeriesWithoutNoise) {
  std::vector<double> times(30, 7.0);
  EXPECT_THAT(places(times), IsEmpty());
  for (size_t i = 12; i < 30; ++i) times[i] = 8;
  EXPECT_THAT(places(times), ElementsAre(12));
  for (const double scale : {1e-12, 1e12}) {
    std::vector<double> scaled;
    for (const double us : times) scaled.push_back(us * scale);
    EXPECT_THAT(places(scaled), ElementsAre(12)) << scale;
  }
}

TEST(ChangePoints, ShortSeries) {
  for (size_t count = 0; count < 6; ++count) {
    std::vector<double> times;
    for (size_t i = 0; i < count; ++i) times.push_back(i < count / 2 ? 1 : 1000);
    EXPECT_THAT(places(times), IsEmpty()) << count;
  }
  EXPECT_THAT(places({1, 1, 1, 2, 2, 2}), ElementsAre(3));
}

TEST(ChangePoints, OnlyTheLastAreSearched) {
  std::vector<double> times(kMostPoints + 100, 1.0);
  for (size_t i = 50; i < times.size(); ++i) times[i] = 2;
  EXPECT_THAT(places(times), IsEmpty());
  for (size_t i = times.size() - 40; i < times.size(); ++i) times[i] = 3;
  EXPECT_THAT(places(times), ElementsAre(times.size() - 40));
}

// The level is 1 % of series that never changed; Bonferroni's bound is the safe side of it.
TEST(ChangePoints, NoiseAloneHasFew) {
  std::mt19937_64 random(5);
  for (const double noise : {0.01, 0.1}) {
    int alarms = 0;
    for (int trial = 0; trial < 500; ++trial) {
      std::vector<double> times;
      add_noisy(times, 60, 100, noise, random);
      alarms += !change_points(times).empty();
    }
    EXPECT_LE(alarms, 8) << "of 500, at noise " << noise;
  }
}

TEST(ChangePoints, AStepOfFivePercentIsFoundSoonAfter) {
  std::mt19937_64 random(6);
  int found = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> times;
    add_noisy(times, 40, 100, 0.01, random);
    add_noisy(times, 5, 105, 0.01, random);
    const std::vector<size_t> list = places(times);
    found += list.size() == 1 && list[0] >= 39 && list[0] <= 41;
  }
  EXPECT_GE(found, 190) << "of 200";
}

// The tables of docs/tracking.md: bench_test --gtest_also_run_disabled_tests --gtest_filter='*Simulation'
TEST(ChangePoints, DISABLED_Simulation) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  for (const size_t count : {20, 60, 200}) {
    for (const double correlation : {0.0, 0.3, 0.6}) {
      int alarms = 0;
      for (int trial = 0; trial < 2000; ++trial) {
        std::vector<double> times;
        double error = normal(random);
        for (size_t i = 0; i < count; ++i) {
          error = correlation * error + std::sqrt(1 - correlation * correlation) * normal(random);
          times.push_back(100 * std::exp(0.02 * error));
        }
        alarms += !change_points(times).empty();
      }
      std::printf("%zu points, correlation %.1f: %.1f %% with a false alarm\n", count, correlation,
                  alarms / 20.0);
    }
  }
  for (const double noise : {0.01, 0.02}) {
    for (const double step : {0.03, 0.05, 0.1}) {
      for (const size_t after : {3, 5, 10, 20}) {
        int found = 0;
        for (int trial = 0; trial < 1000; ++trial) {
          std::vector<double> times;
          add_noisy(times, 40, 100, noise, random);
          add_noisy(times, after, 100 * (1 + step), noise, random);
          for (const size_t place : places(times)) found += place >= 38 && place <= 42;
        }
        std::printf("noise %.0f %%, step %.0f %%, %zu launches after: %.0f %% found\n", 100 * noise,
                    100 * step, after, found / 10.0);
      }
    }
  }
  for (const size_t length : {4, 6, 8, 10}) {
    int found = 0;
    for (size_t trial = 0; trial < 500; ++trial) {
      std::vector<double> times;
      add_noisy(times, 60 + trial % 15, 100, 0.01, random);
      add_noisy(times, length, 110, 0.01, random);
      add_noisy(times, 60, 100, 0.01, random);
      found += places(times).size() == 2;
    }
    std::printf("noise 1 %%, 10 %% for %zu launches: %.0f %% found\n", length, found / 5.0);
  }
}

HistoryPoint point(const std::string& commit, double us) {
  return {"host (CPU, 2 cores)",
          "layer/a",
          commit,
          "2026-01-02T03:04:05Z",
          "run",
          "launch",
          us,
          us * 0.99,
          us * 1.01};
}

TEST(HistoryLine, ReadsBack) {
  const std::string line = to_history_line(point("abc", 12.5));
  EXPECT_EQ(to_history_line(parse_point(line)), line);
  EXPECT_EQ(parse_point(line).commit, "abc");
  EXPECT_EQ(parse_point(line).latency_us_ci_low, 12.375);
  HistoryPoint without = point("abc", 12.5);
  without.latency_us_ci_low.reset();
  EXPECT_FALSE(parse_point(to_history_line(without)).latency_us_ci_low.has_value());
}

TEST(HistoryLine, HostileOnesAreRefused) {
  const std::string good = to_history_line(point("abc", 12.5));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string line = good;
    const size_t at = line.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return line.replace(at, from.size(), to);
  };
  const std::pair<std::string, std::string> table[] = {
      {"", "expected JSON"},
      {"[]", "a JSON object"},
      {"{}", "history_version"},
      {with(":1,", ":2,"), "history_version: expected 1, found 2"},
      {with(":1,", ":1.0,"), "history_version"},
      {with("\"abc\"", "\"\""), "commit: expected a text"},
      {with("\"abc\"", "7"), "commit: expected a text"},
      {with("\"abc\"", "\"" + std::string(5000, 'x') + "\""), "commit: expected a text"},
      {with("12.5", "NaN"), "expected"},
      {with("12.5", "1e999"), "latency_us_p50"},
      {with("12.5", "1e300"), "latency_us_p50: expected a number of microseconds"},
      {with("12.5", "-1"), "latency_us_p50: expected a number of microseconds"},
      {with("12.5", "0"), "latency_us_p50: expected a number of microseconds"},
      {with("12.5", "\"12.5\""), "latency_us_p50: expected a number of microseconds"},
      {with("12.5", "null"), "latency_us_p50: expected a number of microseconds"},
      {with("12.5", "12.5,\"latency_us_p50\":1"), "latency_us_p50"},
      {with("12.375", "99"), "latency_us_ci_low: expected at most"},
  };
  for (const auto& [line, message] : table) {
    try {
      (void)parse_point(line);
      ADD_FAILURE() << line;
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr(message)) << line;
      EXPECT_LT(std::string(error.what()).size(), 400u);
    }
  }
  EXPECT_NO_THROW((void)parse_point(with(":1,", ":1,\"of_a_newer_program\":[1],")));
}

TEST(HistoryFile, ATornLastLineIsCounted) {
  const std::string line = to_history_line(point("abc", 12.5));
  for (size_t bytes = 1; bytes < line.size(); ++bytes) {
    const HistoryFile file = parse_history("h", line + "\n" + line.substr(0, bytes));
    EXPECT_EQ(file.points.size(), 1u);
    EXPECT_EQ(file.torn_bytes, bytes);
    EXPECT_FALSE(file.lacks_newline);
  }
  const HistoryFile whole = parse_history("h", line + "\n" + line);
  EXPECT_EQ(whole.points.size(), 2u);
  EXPECT_EQ(whole.torn_bytes, 0u);
  EXPECT_TRUE(whole.lacks_newline);
  EXPECT_TRUE(parse_history("h", "").points.empty());
}

TEST(HistoryFile, NothingElseIsPassedOver) {
  const std::string line = to_history_line(point("abc", 12.5));
  for (const std::string& text : std::vector<std::string>{"notes of somebody", "{\"history_version\":1}\n",
                                                          "\n", line + "\n{\n" + line + "\n", "{\"a\""}) {
    EXPECT_THROW((void)parse_history("h", text), std::runtime_error) << text;
  }
  try {
    (void)parse_history("h", line + "\n{}\n");
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), testing::StartsWith("h:2: "));
  }
}

TEST(History, SeriesAreOfAMachineAndACase) {
  HistoryPoint elsewhere = point("b", 2), other = point("c", 3);
  elsewhere.machine = "other";
  other.case_name = "layer/b";
  const auto list = series_of({point("a", 1), elsewhere, other, point("d", 4)});
  ASSERT_EQ(list.size(), 3u);
  ASSERT_EQ(list[0].points.size(), 2u);
  EXPECT_EQ(list[0].points[1].commit, "d");
}

TEST(History, PointsNameMachineAndCommit) {
  Record ok("layer"), failed("layer");
  for (Record* record : {&ok, &failed}) {
    record->set("case", std::string("layer/a"));
    record->set("latency_us_p50", 5.0);
  }
  ok.set("status", std::string("ok"));
  failed.set("status", std::string("invalid"));
  RunRows run{"one", "host", "2026", 2, {ok, failed}};
  EXPECT_THROW((void)points_of(run, "", ""), std::runtime_error);  // no commit
  run.cpu = "CPU";
  run.commit = "abc";
  const auto points = points_of(run, "", "");
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0].machine, "host (CPU, 2 cores)");
  EXPECT_EQ(points[0].commit, "abc");
  EXPECT_EQ(points_of(run, "mine", "v1")[0].machine, "mine");
  EXPECT_EQ(points_of(run, "mine", "v1")[0].commit, "v1");
  run.machine.clear();
  EXPECT_THROW((void)points_of(run, "", ""), std::runtime_error);  // no machine
}

TEST(HistorySvg, MarksChangesAndDisarmsNames) {
  HistorySeries series{"m", "<script>&\"'\x1b\xef\xbf\xbf", {}};
  for (int i = 0; i < 10; ++i) series.points.push_back(point("old", 100 + i % 2));
  for (int i = 0; i < 5; ++i) series.points.push_back(point("</svg>&", 120 + i % 2));
  const std::string svg = history_svg(series);
  EXPECT_THAT(svg, HasSubstr("+19.8 % at &lt;/svg&gt;&amp;"));
  EXPECT_THAT(svg, HasSubstr("&lt;script&gt;&amp;&quot;&apos;\\x1b\xef\xbf\xbd"));
  EXPECT_THAT(svg, Not(HasSubstr("<script>")));
  EXPECT_EQ(svg.find('\x1b'), std::string::npos);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(HistorySvg, OfOnePoint) {
  HistorySeries series{"m", "c", {point("only", 5)}};
  series.points[0].latency_us_ci_low.reset();
  const std::string svg = history_svg(series);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_THAT(svg, HasSubstr("only"));
}

TEST(HistorySvg, EndsWhereTimesDifferInTheirLastBitsAlone) {
  HistorySeries series;
  series.case_name = "a";
  for (const double us : {100.0, std::nextafter(100.0, 200.0), 100.0})
    series.points.push_back(point("c", us));
  const std::string svg = history_svg(series);
  EXPECT_LT(svg.size(), 20'000u);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace lamina

#include "bench/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>
#include <thread>

#include "distributed/communicator.hpp"

namespace lamina {
namespace {

TEST(Quantile, InterpolatesBetweenOrderStatistics) {
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2}, 0.5), 2);
  EXPECT_DOUBLE_EQ(quantile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({1, 2, 3, 4, 5}, 0.9), 4.6);
  EXPECT_DOUBLE_EQ(quantile({7}, 0.99), 7);
  EXPECT_TRUE(std::isnan(quantile({}, 0.5)));
}

TEST(MedianInterval, SixValuesSpanTheirRange) {
  // P(all six on one side of the median) = 2/64 = 3.1 %: the range is a 96.9 % interval.
  const Interval interval = median_interval({5, 1, 4, 2, 6, 3});
  EXPECT_EQ(interval.low, 1);
  EXPECT_EQ(interval.high, 6);
}

TEST(MedianInterval, NineValuesDropOneOnEachSide) {
  // P(Binomial(9, 1/2) ≤ 1) = 10/512 = 1.95 % a side.
  const Interval interval = median_interval({1, 2, 3, 4, 5, 6, 7, 8, 9});
  EXPECT_EQ(interval.low, 2);
  EXPECT_EQ(interval.high, 8);
}

TEST(MedianInterval, CoversTheMedianAtLeastAsOftenAsItSays) {
  std::mt19937_64 random(7);
  std::exponential_distribution<double> skewed(1.0);
  const double truth = std::log(2.0);
  for (int n : {6, 10, 25}) {
    int covered = 0;
    const int trials = 4000;
    for (int t = 0; t < trials; ++t) {
      std::vector<double> values(static_cast<size_t>(n));
      for (double& value : values) value = skewed(random);
      const Interval interval = median_interval(values);
      covered += interval.low <= truth && truth <= interval.high ? 1 : 0;
    }
    EXPECT_GE(covered, trials * 0.94) << n;
    EXPECT_LT(covered, trials) << n;  // an interval that always covers says nothing
  }
}

TEST(MedianInterval, HoldsTheP50) {
  std::mt19937_64 random(11);
  std::uniform_real_distribution<double> coarse(0, 8);
  for (size_t n = kMinBlocksForInterval; n <= 200; ++n) {
    Series series;
    // Ties and skew too.
    for (size_t i = 0; i < n; ++i) series.block_medians.push_back(std::exp(std::floor(coarse(random))));
    series.samples_us = {1e9};  // no part of either
    ASSERT_TRUE(series.has_interval());
    EXPECT_LE(series.interval().low, series.p50_us()) << n;
    EXPECT_GE(series.interval().high, series.p50_us()) << n;
    EXPECT_EQ(series.p50_us(), median(series.block_medians));
  }
  EXPECT_FALSE(Series().has_interval());
  EXPECT_TRUE(std::isnan(Series().p50_us()));
}

TEST(SteadyClock, IsWhatReadingsAgreeOn) {
  EXPECT_EQ(steady_clock_mhz({}), 0);
  EXPECT_EQ(steady_clock_mhz({3000, 3020, 3010, 3015, 3005}), 3010);
  EXPECT_EQ(steady_clock_mhz({3000, 3020, 9, 3010, 3005}), 3005) << "one was interrupted";
  EXPECT_EQ(steady_clock_mhz({3000, 3600, 3000, 3600, 3600}), 0) << "it moved";
  EXPECT_EQ(steady_clock_mhz({3000, 3020, 9, 9, 3010}), 0);
}

TEST(Series, CyclesAreOfTheBlocksWithASteadyClock) {
  Series series;
  series.rule.max_seconds = 1;
  // 300 cycles a step, whatever the clock.
  for (const double mhz : {1000.0, 2500.0, 3000.0}) {
    EXPECT_TRUE(std::isnan(series.p50_cycles()));
    const double s = 300 / mhz * 1e-6;
    series.add_block({2 * s, s, s / 2, s, s}, mhz);
    series.add_block({1, 1, 1, 1, 1});  // nobody knows at which clock
  }
  EXPECT_NEAR(series.p50_cycles(), 300, 1e-9);
  EXPECT_EQ(median(series.block_clocks_mhz), 2500);
}

double from_normal(double z, bool exponential) {
  constexpr double kSpread = 0.03;
  const double above = 0.5 * std::erfc(z / std::sqrt(2.0));  // the same order, another shape
  return 1e-3 * (exponential ? 1 - kSpread * std::log(above) : std::exp(kSpread * z));
}

// Seconds of steps as a machine gives them: skewed, correlated by 0.7 from one to the next within a block.
// `shared`: the share of the variance that drifts slowly, from block to block.
class Machine {
 public:
  Machine(uint64_t seed, bool exponential, double shared)
      : random_(seed), exponential_(exponential), shared_(shared), drift_(normal_(random_)) {}
  std::vector<double> block() {
    drift_ = 0.5 * drift_ + std::sqrt(0.75) * normal_(random_);
    std::vector<double> seconds;
    double z = normal_(random_);
    for (int i = 0; i < kBlockSamples; ++i) {
      seconds.push_back(from_normal(std::sqrt(1 - shared_) * z + std::sqrt(shared_) * drift_, exponential_));
      z = 0.7 * z + std::sqrt(1 - 0.7 * 0.7) * normal_(random_);
    }
    return seconds;
  }

 private:
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  bool exponential_;
  double shared_, drift_;
};

// The share of series, ended by the rule, whose interval holds the median of block medians. Were the
// precision tested after every block, it would be about two points less (see the commit).
double coverage(bool exponential, double shared, double precision) {
  constexpr int kTrials = 4000;
  // By symmetry the median of a block's median of correlated normals is 0; monotone maps keep medians.
  const double truth_us = 1e6 * from_normal(0, exponential);
  int covered = 0, by_precision = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    Machine machine(static_cast<uint64_t>(trial) + 1, exponential, shared);
    Series series;
    series.rule = {precision, 30, 1.5, 10};
    while (series.stop_reason.empty()) series.add_block(machine.block());
    const Interval interval = series.interval();
    covered += interval.low <= truth_us && truth_us <= interval.high ? 1 : 0;
    by_precision += series.stop_reason == "precision" ? 1 : 0;
  }
  EXPECT_GT(by_precision, kTrials / 2);  // else it is not the stopping that is tested
  return static_cast<double>(covered) / kTrials;
}

TEST(StopRule, KeepsTheIntervalsPromise) {
  for (const bool exponential : {false, true})
    for (const double precision : {0.02, 0.01, 0.007}) {
      const double independent = coverage(exponential, 0, precision);
      EXPECT_GE(independent, 0.93) << exponential << " " << precision;
      EXPECT_LT(independent, 0.99);  // an interval that is too wide says too little
      // No interval from block medians can know of this.
      EXPECT_GE(coverage(exponential, 0.1, precision), 0.90) << exponential << " " << precision;
    }
}

TEST(StopRule, LooksAtThePrecisionFewTimes) {
  // The ranks of a 95 % interval leave out two low blocks from 12 blocks on; the looks are at 6, 9 and 14.
  Series series;
  series.rule = {0.01, 30, 1e9, 10};
  for (int block = 1; series.stop_reason.empty(); ++block) {
    series.add_block(std::vector<double>(kBlockSamples, block <= 2 ? 0.5 : 0.75));
    ASSERT_LE(block, 100);
  }
  EXPECT_EQ(series.stop_reason, "precision");
  EXPECT_EQ(series.block_medians.size(), 14u);
}

TEST(StopRule, NeedsMinSamplesAndStopsAtMaxSeconds) {
  Series patient;
  patient.rule = {0.01, 200, 1e9, 10};
  while (patient.stop_reason.empty()) patient.add_block(std::vector<double>(kBlockSamples, 1e-3));
  EXPECT_EQ(patient.stop_reason, "precision");
  EXPECT_EQ(patient.samples_us.size(), 200u);

  Series hurried;
  hurried.iterations_per_sample = 10;
  hurried.rule = {1e-9, 30, 2, 10};
  for (double s = 1; hurried.stop_reason.empty(); ++s)
    hurried.add_block(std::vector<double>(kBlockSamples, s * 1e-2));
  EXPECT_EQ(hurried.stop_reason, "max_seconds");
  // 5 · 10 ms · (1 + … + 9) = 2.25 s
  EXPECT_EQ(hurried.block_medians.size(), 9u);
  EXPECT_DOUBLE_EQ(hurried.p50_us(), 5e3);  // a step, not a sample
}

void spin_us(double us) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double, std::micro>(us);
  while (std::chrono::steady_clock::now() < end) {
  }
}

TEST(Sample, TimesEachSeriesAndKeepsItsSamples) {
  auto comm = make_self_communicator();
  Series fast, slow;
  fast.step = [] { spin_us(5); };
  slow.step = [] { spin_us(200); };
  for (Series* one : {&fast, &slow}) one->rule = {0.05, 30, 0.2, 10};
  std::vector<Series*> all = {&fast, &slow};
  int last = 0;
  sample(all, *comm, 1, [&](int done, const std::string&) { last = done; });
  EXPECT_EQ(last, 2);
  for (Series* one : all) {
    EXPECT_GE(one->samples_us.size(), 30u);
    EXPECT_EQ(one->samples_us.size(), one->block_medians.size() * kBlockSamples);
    EXPECT_TRUE(one->stop_reason == "precision" || one->stop_reason == "max_seconds") << one->stop_reason;
  }
  EXPECT_GE(quantile(fast.samples_us, 0), 5 * 0.99);
  EXPECT_GE(quantile(slow.samples_us, 0), 200 * 0.99);
  // Several short steps make one sample that the clock can time.
  EXPECT_GT(fast.iterations_per_sample, 1);
  EXPECT_EQ(slow.iterations_per_sample, 1);
}

// By its own clock, of iterations that hold several steps.
TEST(Sample, TakesADevicesTimes) {
  auto comm = make_self_communicator();
  Series series, failing;
  series.timed = [](int64_t iterations) { return 1e-3 * static_cast<double>(iterations); };
  series.steps = 4;
  failing.timed = [](int64_t) { return std::numeric_limits<double>::infinity(); };
  for (Series* one : {&series, &failing}) one->rule = {0.05, 30, 0.2, 10};
  std::vector<Series*> all = {&series, &failing};
  sample(all, *comm, 1, [](int, const std::string&) {});
  EXPECT_EQ(series.stop_reason, "precision");
  EXPECT_DOUBLE_EQ(series.p50_us(), 250);
  EXPECT_EQ(series.steps_per_sample(), 4 * series.iterations_per_sample);
  EXPECT_TRUE(failing.timed_out());
}

TEST(Sample, ManyShortStepsShareASample) {
  auto comm = make_self_communicator();
  Series series;
  series.step = [] { spin_us(2); };
  series.rule = {-1, 30, 0.2, 10};  // a precision out of reach; 0.2 s of 40 µs samples would be 5000
  std::vector<Series*> all = {&series};
  sample(all, *comm, 1, [](int, const std::string&) {});
  EXPECT_EQ(series.stop_reason, "max_seconds");
  EXPECT_LE(series.samples_us.size(), size_t{kMaxSamples} * 5 / 4);
  EXPECT_GE(series.iterations_per_sample, 10);
}

TEST(Sample, AStepPastItsTimeoutEndsTheSeriesOnly) {
  auto comm = make_self_communicator();
  Series stuck, fine;
  stuck.step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(30)); };
  fine.step = [] { spin_us(50); };
  stuck.rule = {0.05, 30, 0.1, 0.01};
  fine.rule = {0.05, 30, 0.1, 10};
  std::vector<Series*> all = {&stuck, &fine};
  sample(all, *comm, 1, [](int, const std::string&) {});
  EXPECT_TRUE(stuck.timed_out());
  EXPECT_TRUE(stuck.samples_us.empty());
  EXPECT_FALSE(fine.timed_out());
  EXPECT_FALSE(fine.samples_us.empty());
}

TEST(Sample, ALaterStepPastItsTimeoutEndsTheSeriesToo) {
  auto comm = make_self_communicator();
  Series series;
  int calls = 0;
  // The one that warms up the third block.
  series.step = [&] { std::this_thread::sleep_for(std::chrono::milliseconds(++calls == 15 ? 700 : 5)); };
  series.rule = {0, 30, 10, 0.5};
  std::vector<Series*> all = {&series};
  int last = 0;
  sample(all, *comm, 1, [&](int done, const std::string&) { last = done; });
  EXPECT_TRUE(series.timed_out());
  EXPECT_EQ(last, 1);
  EXPECT_EQ(series.samples_us.size(), 10u);  // 2 steps to calibrate, two blocks of 6
  EXPECT_TRUE(std::isnan(series.p50_us()));
  for (const double us : series.samples_us) EXPECT_LT(us, 0.5e6);
}

TEST(Sample, SaysThatItLivesBetweenLongSamples) {
  auto comm = make_self_communicator();
  Series series;
  series.step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(60)); };
  series.rule = {0, 30, 0.1, 10};
  std::vector<Series*> all = {&series};
  int calls = 0;
  sample(all, *comm, 1, [&](int, const std::string&) { ++calls; });
  EXPECT_EQ(series.block_medians.size(), 1u);
  EXPECT_GE(calls, 4);  // two steps to calibrate, six of the one block: at every other step
}

TEST(StopRule, ALongStepIsTimedAFewTimes) {
  Series series;
  series.rule = {0.01, 30, 5, 1000};
  EXPECT_FALSE(series.is_long(4.9));
  EXPECT_TRUE(series.is_long(5.1));
  for (const double seconds : {7.0, 6.0, 9.0}) {
    EXPECT_EQ(series.stop_reason, "");
    series.add_long(seconds);
  }
  EXPECT_EQ(series.stop_reason, "max_seconds");
  EXPECT_TRUE(series.long_step);
  EXPECT_DOUBLE_EQ(series.p50_us(), 7e6);
  EXPECT_FALSE(series.has_interval());

  Series longer;
  longer.rule = {0.01, 30, 5, 1000};
  longer.add_long(130);
  EXPECT_EQ(longer.stop_reason, "max_seconds");
  EXPECT_DOUBLE_EQ(longer.p50_us(), 130e6);

  // Where little time was given, a second is not yet long.
  Series hurried;
  hurried.rule = {0.01, 30, 0.02, 1000};
  EXPECT_FALSE(hurried.is_long(0.9));
  EXPECT_TRUE(hurried.is_long(1.1));
}

TEST(Sample, ALongStepRunsNoOftenerThanItIsTimed) {
  auto comm = make_self_communicator();
  Series slow, quick;
  int calls = 0;
  std::vector<std::string> names;
  slow.name = "slow";
  quick.name = "quick";
  slow.step = [&] {
    ++calls;
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  };
  quick.step = [] { spin_us(50); };
  slow.rule = quick.rule = {0, 30, 0.01, 10};
  std::vector<Series*> all = {&slow, &quick};
  sample(all, *comm, 1, [&](int, const std::string& name) { names.push_back(name); });
  EXPECT_EQ(calls, 3);
  ASSERT_EQ(slow.samples_us.size(), 3u);
  EXPECT_TRUE(slow.long_step);
  EXPECT_EQ(slow.stop_reason, "max_seconds");
  EXPECT_EQ(slow.p50_us(), median(slow.samples_us));
  EXPECT_FALSE(quick.long_step);
  EXPECT_GE(quick.samples_us.size(), 5u);
  for (const char* name : {"slow", "quick"})
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end());
}

TEST(Sample, ALongStepPastItsTimeoutIsATimeout) {
  auto comm = make_self_communicator();
  for (const int late : {1, 2}) {
    Series series;
    int calls = 0;
    series.step = [&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(++calls == late ? 1500 : 1050));
    };
    series.rule = {0, 30, 0.01, 1.3};
    std::vector<Series*> all = {&series};
    sample(all, *comm, 1, [](int, const std::string&) {});
    EXPECT_TRUE(series.timed_out()) << late;
    EXPECT_EQ(calls, late);
    EXPECT_TRUE(std::isnan(series.p50_us()));
  }
}

TEST(Sample, InterleavesSoThatDriftFallsOnAll) {
  auto comm = make_self_communicator();
  std::vector<int> order;
  std::vector<Series> series(3);
  std::vector<Series*> all;
  for (int i = 0; i < 3; ++i) {
    series[static_cast<size_t>(i)].step = [&order, i] {
      order.push_back(i);
      spin_us(50);
    };
    series[static_cast<size_t>(i)].rule = {0, 30, 0.01, 10};
    all.push_back(&series[static_cast<size_t>(i)]);
  }
  sample(all, *comm, 3, [](int, const std::string&) {});
  int changes = 0;
  for (size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1] ? 1 : 0;
  EXPECT_GE(changes, 10);  // one long stretch each would be 2
}

}  // namespace
}  // namespace lamina

#include "bench/compare/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

namespace lamina::compare {
namespace {

// The values are SciPy 1.10.1's: stats.ttest_1samp(d, 0), stats.t.interval(0.95, 4, mean(d), sem(d)).
TEST(Statistics, PairedIsStudentsTestOfTheDifferences) {
  const std::vector<double> base = {1, 2, 3, 4, 5}, next = {1.051, 2.043, 3.062, 4.048, 5.055};
  const Estimate estimate = paired(base, next);
  EXPECT_NEAR(estimate.log_ratio, 0.0518, 1e-12);
  EXPECT_NEAR(estimate.standard_error, 0.003215587038162706, 1e-12);
  EXPECT_EQ(estimate.degrees, 4);
  EXPECT_NEAR(estimate.p_value, 8.685557573893729e-05, 1e-12);
  const Interval within = interval(estimate, 0.95);
  EXPECT_NEAR(within.low, 0.04287209910755567, 1e-10);
  EXPECT_NEAR(within.high, 0.06072790089244433, 1e-10);
}

// stats.ttest_ind(next, base, equal_var=False); the degrees of freedom by Satterthwaite's formula in NumPy.
TEST(Statistics, UnpairedIsWelchsTest) {
  const std::vector<double> base = {4.60517, 4.61512, 4.58497, 4.62006, 4.60018},
                            next = {4.66344, 4.65396, 4.68213, 4.64439};
  const Estimate estimate = unpaired(base, next);
  EXPECT_NEAR(estimate.log_ratio, 0.05588, 1e-12);
  EXPECT_NEAR(estimate.standard_error, 0.010124478258162255, 1e-12);
  EXPECT_NEAR(estimate.degrees, 5.98476808674495, 1e-9);
  EXPECT_NEAR(estimate.p_value, 0.0015003842567721836, 1e-12);
  const Interval within = interval(estimate, 0.95);
  EXPECT_NEAR(within.low, 0.031091002215438267, 1e-10);
  EXPECT_NEAR(within.high, 0.08066899778456203, 1e-10);
}

// From ten launches on, some are trimmed at each end. stats.ttest_ind(next, base, equal_var=False,
// trim=0.1); errors and degrees of freedom by Yuen's formulas, and the paired test by Tukey and McLaughlin's,
// in NumPy.
TEST(Statistics, LaunchesThatWereHeldUpAreTrimmed) {
  const std::vector<double> base = {4.60517, 4.61512, 4.58497, 4.62006, 4.60018, 4.59921,
                                    4.61034, 4.95112, 4.60455, 4.59333, 4.61201};
  const std::vector<double> next = {4.66344, 4.65396, 4.68213, 4.64439, 4.65117,
                                    4.66201, 4.1,     4.65533, 4.67001, 4.66022};
  const Estimate welch = unpaired(base, next);
  EXPECT_NEAR(welch.log_ratio, 0.0509029166666668, 1e-12);
  EXPECT_NEAR(welch.standard_error, 0.005179413639356051, 1e-12);
  EXPECT_NEAR(welch.degrees, 14.847267695607808, 1e-9);
  EXPECT_NEAR(welch.p_value, 6.87851764787996e-08, 1e-13);
  const Estimate pairs = paired({base.begin(), base.begin() + 10}, next);
  EXPECT_NEAR(pairs.log_ratio, 0.008973749999999892, 1e-12);
  EXPECT_NEAR(pairs.standard_error, 0.05943008441648053, 1e-12);
  EXPECT_EQ(pairs.degrees, 7);
  EXPECT_NEAR(pairs.p_value, 0.8842375460156282, 1e-12);
  EXPECT_EQ(trimmed(9), 0);
  EXPECT_EQ(trimmed(14), 1);
  EXPECT_EQ(trimmed(15), 2);
}

// (stats.t.ppf(0.995, 4) + stats.t.ppf(0.95, 4)) · sem(d), and the floor in place of the first.
TEST(Statistics, VisibleIsWhatTheTestAndTheFloorLetThrough) {
  const Estimate estimate = paired({1, 2, 3, 4, 5}, {1.051, 2.043, 3.062, 4.048, 5.055});
  EXPECT_NEAR(std::expm1(visible(estimate, 0.01, 0, 0.95)), 0.0218962874771369, 1e-10);
  EXPECT_NEAR(visible(estimate, 0.01, 0.03, 0.95), 0.03 + 2.13184678133629 * 0.003215587038162706, 1e-10);
}

// By hand, from Holm's definition: 4·0.01, max(3·0.02, ·), max(2·0.03, ·), max(0.9, ·); and 1 at most.
TEST(Statistics, HolmMultipliesByTheRowsThatAreLeft) {
  const std::vector<double> adjusted = holm({0.03, 0.01, 0.9, 0.02});
  EXPECT_DOUBLE_EQ(adjusted[1], 0.04);
  EXPECT_DOUBLE_EQ(adjusted[3], 0.06);
  EXPECT_DOUBLE_EQ(adjusted[0], 0.06);
  EXPECT_DOUBLE_EQ(adjusted[2], 0.9);
  EXPECT_DOUBLE_EQ(holm({0.8, 0.9})[0], 1);
  EXPECT_TRUE(holm({}).empty());
}

TEST(Statistics, LaunchesWithoutAnyVarianceAreNotCertain) {
  for (const Estimate& estimate : {paired({1, 1}, {1.05, 1.05}), unpaired({1, 1}, {1.05, 1.05})}) {
    EXPECT_GT(estimate.standard_error, 0);
    EXPECT_GT(estimate.p_value, 0);
    EXPECT_TRUE(std::isfinite(interval(estimate, 0.95).high));
  }
  EXPECT_EQ(paired({1, 1}, {1, 1}).p_value, 1);
}

TEST(Statistics, OneLaunchIsRefused) {
  EXPECT_THROW(paired({1}, {1}), std::invalid_argument);
  EXPECT_THROW(paired({1, 2}, {1, 2, 3}), std::invalid_argument);
  EXPECT_THROW(unpaired({1}, {1, 2}), std::invalid_argument);
  EXPECT_THROW(unpaired({1, 2}, {1}), std::invalid_argument);
}

TEST(ShareAtMost, IsTheExactBound) {
  EXPECT_NEAR(share_at_most(0, 300, 0.95), 1 - std::pow(0.05, 1.0 / 300), 1e-9);
  EXPECT_NEAR(share_at_most(3, 60, 0.95), 0.1241872, 1e-6);  // where 3 or fewer of 60 have a chance of 5 %
  EXPECT_EQ(share_at_most(5, 5, 0.95), 1);
  EXPECT_EQ(share_at_most(0, 0, 0.95), 1);
}

}  // namespace
}  // namespace lamina::compare

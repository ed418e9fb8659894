#include "bench/compare/statistics.hpp"

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace lamina::compare {
namespace {

// In double: long double, to which Boost would go, takes several times as long, and gates judge millions of
// rows.
using students_t = boost::math::students_t_distribution<
    double, boost::math::policies::policy<boost::math::policies::promote_double<false>>>;

// Times of two launches never agree better than this (relative): less is a copy, and no certainty.
constexpr double kLeastError = 1e-4;

// A trimmed mean, the square of its standard error and the degrees of freedom of that.
struct Center {
  double mean = 0, squared_error = 0, degrees = 0;
};

// Yuen, The two-sample trimmed t for unequal population variances, 1974: the winsorized sum of squares over
// h·(h − 1), h the values that stay. s²/n where nothing is trimmed.
Center center_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto cut = static_cast<std::ptrdiff_t>(trimmed(static_cast<int64_t>(values.size())));
  const std::vector<double> kept(values.begin() + cut, values.end() - cut);
  std::fill(values.begin(), values.begin() + cut, kept.front());
  std::fill(values.end() - cut, values.end(), kept.back());
  const double middle = mean(values), left = static_cast<double>(kept.size());
  double sum = 0;
  for (const double value : values) sum += (value - middle) * (value - middle);
  return {mean(kept), sum / (left * (left - 1)), left - 1};
}

void need_two(const std::vector<double>& values) {
  if (values.size() < 2) throw std::invalid_argument("expected at least 2 launches a side");
}

Estimate tested(double log_ratio, double error, double degrees) {
  Estimate estimate{log_ratio, std::max(error, kLeastError), degrees, 1};
  const double t = std::fabs(log_ratio) / estimate.standard_error;
  estimate.p_value = 2 * cdf(complement(students_t(degrees), t));
  return estimate;
}

// The t that is exceeded with a chance of `tail`.
double t_beyond(double degrees, double tail) {
  return quantile(complement(students_t(degrees), tail));
}

}  // namespace

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

int64_t trimmed(int64_t count) {
  return count < 10 ? 0 : (count - 5) / 5;
}

Estimate paired(const std::vector<double>& base, const std::vector<double>& next) {
  need_two(base);
  if (base.size() != next.size()) throw std::invalid_argument("expected as many launches on both sides");
  std::vector<double> differences;
  for (size_t i = 0; i < base.size(); ++i) differences.push_back(next[i] - base[i]);
  const Center center = center_of(std::move(differences));
  return tested(center.mean, std::sqrt(center.squared_error), center.degrees);
}

Estimate unpaired(const std::vector<double>& base, const std::vector<double>& next) {
  need_two(base);
  need_two(next);
  const Center old = center_of(base), now = center_of(next);
  const double sum = old.squared_error + now.squared_error;
  // Without any variance there is nothing to weigh the degrees by: the fewer.
  const double degrees = sum > 0 ? sum * sum /
                                       (old.squared_error * old.squared_error / old.degrees +
                                        now.squared_error * now.squared_error / now.degrees)
                                 : std::min(old.degrees, now.degrees);
  return tested(now.mean - old.mean, std::sqrt(sum), degrees);
}

Interval interval(const Estimate& estimate, double level) {
  const double reach = t_beyond(estimate.degrees, (1 - level) / 2) * estimate.standard_error;
  return {estimate.log_ratio - reach, estimate.log_ratio + reach};
}

double visible(const Estimate& estimate, double alpha, double floor, double power) {
  const double threshold = std::max(floor, t_beyond(estimate.degrees, alpha / 2) * estimate.standard_error);
  return threshold + t_beyond(estimate.degrees, 1 - power) * estimate.standard_error;
}

std::vector<double> holm(const std::vector<double>& p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double raw = static_cast<double>(order.size() - i) * p_values[order[i]];
    largest = std::max(largest, std::min(raw, 1.0));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

double share_at_most(int64_t count, int64_t tries, double confidence) {
  if (count >= tries) return 1;
  return boost::math::binomial_distribution<>::find_upper_bound_on_p(
      static_cast<double>(tries), static_cast<double>(count), 1 - confidence);
}

}  // namespace lamina::compare

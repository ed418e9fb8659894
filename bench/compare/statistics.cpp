#include "bench/compare/statistics.hpp"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace lamina::compare {
namespace {

using boost::math::students_t;

// Times of two launches never agree better than this (relative): less is a copy, and no certainty.
constexpr double kLeastError = 1e-4;

// Of the mean: s²/n.
double squared_error(const std::vector<double>& values) {
  const double center = mean(values), count = static_cast<double>(values.size());
  double sum = 0;
  for (const double value : values) sum += (value - center) * (value - center);
  return sum / (count - 1) / count;
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

Estimate paired(const std::vector<double>& base, const std::vector<double>& next) {
  need_two(base);
  if (base.size() != next.size()) throw std::invalid_argument("expected as many launches on both sides");
  std::vector<double> differences;
  for (size_t i = 0; i < base.size(); ++i) differences.push_back(next[i] - base[i]);
  return tested(mean(differences), std::sqrt(squared_error(differences)),
                static_cast<double>(base.size()) - 1);
}

Estimate unpaired(const std::vector<double>& base, const std::vector<double>& next) {
  need_two(base);
  need_two(next);
  const double of_base = squared_error(base), of_next = squared_error(next), sum = of_base + of_next;
  const double base_degrees = static_cast<double>(base.size()) - 1,
               next_degrees = static_cast<double>(next.size()) - 1;
  // Without any variance there is nothing to weigh the degrees by: the fewer.
  const double degrees =
      sum > 0 ? sum * sum / (of_base * of_base / base_degrees + of_next * of_next / next_degrees)
              : std::min(base_degrees, next_degrees);
  return tested(mean(next) - mean(base), std::sqrt(sum), degrees);
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

}  // namespace lamina::compare

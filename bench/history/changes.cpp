#include "bench/history/changes.hpp"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

namespace lamina {
namespace {

// Windows in which the search is repeated, half overlapping: in a long series a short stretch that comes and
// goes moves no mean enough (Fleming et al. 2023, section 4.2, who take 50).
constexpr size_t kWindow = 30;
// Places are taken for candidates at ten times the level, and judged beside their final neighbours.
constexpr double kCandidateLevel = 10 * kChangeLevel;

struct Difference {
  double mean = 0;      // of the logarithms, after less before
  double interval = 0;  // half the width of its 95 % interval
  double p = 1;
};

double mean_of(const std::vector<double>& x, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += x[i];
  return sum / static_cast<double>(end - begin);
}

// Student's two-sample t-test with one variance, of x[begin, middle) and x[middle, end).
Difference difference(const std::vector<double>& x, size_t begin, size_t middle, size_t end) {
  Difference result;
  const double before = mean_of(x, begin, middle), after = mean_of(x, middle, end);
  result.mean = after - before;
  if (end - begin < 3) return result;
  double squares = 0;
  for (size_t i = begin; i < end; ++i) {
    const double deviation = x[i] - (i < middle ? before : after);
    squares += deviation * deviation;
  }
  const double n = static_cast<double>(middle - begin), m = static_cast<double>(end - middle);
  const double error = std::sqrt(squares / (n + m - 2) * (1 / n + 1 / m));
  // Differences of the size of a double's rounding are none.
  if (std::abs(result.mean) < 1e-12) return result;
  if (error < 1e-15) {
    result.p = 0;
    return result;
  }
  const boost::math::students_t distribution(n + m - 2);
  result.p = 2 * boost::math::cdf(boost::math::complement(distribution, std::abs(result.mean) / error));
  result.interval = error * boost::math::quantile(boost::math::complement(distribution, 0.025));
  return result;
}

// Where x[begin, end) falls into two parts that differ most: the greatest energy statistic
// nm/(n+m)·(2·E|X−Y| − E|X−X'| − E|Y−Y'|), both parts of at least kLeastStretch points; `begin` where there
// is none. Takes the square of the points' number, as each place's sums come from its neighbour's.
size_t best_split(const std::vector<double>& x, size_t begin, size_t end) {
  if (end - begin < 2 * kLeastStretch) return begin;
  double left = 0, right = 0, across = 0;  // sums of |a − b| over pairs
  for (size_t i = begin; i < end; ++i) {
    for (size_t j = i + 1; j < end; ++j) right += std::abs(x[i] - x[j]);
  }
  size_t best = begin;
  double greatest = 0;
  for (size_t split = begin + 1; split + kLeastStretch <= end; ++split) {
    double to_left = 0, to_right = 0;
    for (size_t i = begin; i + 1 < split; ++i) to_left += std::abs(x[i] - x[split - 1]);
    for (size_t i = split; i < end; ++i) to_right += std::abs(x[i] - x[split - 1]);
    left += to_left;
    right -= to_right;
    across += to_right - to_left;
    if (split - begin < kLeastStretch) continue;
    const double n = static_cast<double>(split - begin), m = static_cast<double>(end - split);
    const double energy =
        n * m / (n + m) * (2 * across / (n * m) - left / (n * (n - 1) / 2) - right / (m * (m - 1) / 2));
    if (energy > greatest) {
      greatest = energy;
      best = split;
    }
  }
  return best;
}

class Search {
 public:
  explicit Search(std::vector<double> x) : x_(std::move(x)) {}

  std::vector<size_t> run() {
    divide(0, x_.size());
    for (size_t begin = 0; begin + kWindow < x_.size() + kWindow / 2; begin += kWindow / 2)
      divide(begin, std::min(begin + kWindow, x_.size()));
    merge();
    // A place was chosen among neighbours that are gone: choose again, from the first on.
    for (size_t i = 0; i < places_.size(); ++i) {
      const size_t begin = i == 0 ? 0 : places_[i - 1];
      const size_t end = i + 1 < places_.size() ? places_[i + 1] : x_.size();
      const size_t place = best_split(x_, begin, end);
      if (place != begin) places_[i] = place;
    }
    merge();
    return places_;
  }

  // The change at a place of the last result.
  ChangePoint change(size_t i) const {
    const Difference found = difference_at(i);
    return {places_[i], std::exp(found.mean), std::exp(found.mean - found.interval),
            std::exp(found.mean + found.interval), corrected(found.p)};
  }

 private:
  // The greatest of many places was looked for, which also noise has: Bonferroni's bound over all of them.
  double corrected(double p) const { return std::min(1.0, p * static_cast<double>(x_.size())); }

  void divide(size_t begin, size_t end) {
    const size_t place = best_split(x_, begin, end);
    if (place == begin || corrected(difference(x_, begin, place, end).p) > kCandidateLevel) return;
    const auto at = std::lower_bound(places_.begin(), places_.end(), place);
    if (at == places_.end() || *at != place) places_.insert(at, place);
    divide(begin, place);
    divide(place, end);
  }

  Difference difference_at(size_t i) const {
    const size_t begin = i == 0 ? 0 : places_[i - 1];
    const size_t end = i + 1 < places_.size() ? places_[i + 1] : x_.size();
    return difference(x_, begin, places_[i], end);
  }

  bool holds(size_t i, const Difference& found) const {
    const size_t begin = i == 0 ? 0 : places_[i - 1];
    const size_t end = i + 1 < places_.size() ? places_[i + 1] : x_.size();
    return places_[i] - begin >= kLeastStretch && end - places_[i] >= kLeastStretch &&
           corrected(found.p) <= kChangeLevel && std::abs(std::expm1(found.mean)) >= kLeastChange;
  }

  // Takes away the place that holds least, until all hold.
  void merge() {
    while (true) {
      size_t weakest = places_.size();
      double worst = -1;
      for (size_t i = 0; i < places_.size(); ++i) {
        const Difference found = difference_at(i);
        if (!holds(i, found) && found.p > worst) {
          worst = found.p;
          weakest = i;
        }
      }
      if (weakest == places_.size()) return;
      places_.erase(places_.begin() + static_cast<ptrdiff_t>(weakest));
    }
  }

  std::vector<double> x_;
  std::vector<size_t> places_;
};

}  // namespace

std::vector<ChangePoint> change_points(const std::vector<double>& times) {
  const size_t skipped = times.size() > kMostPoints ? times.size() - kMostPoints : 0;
  // Of logarithms: what is compared are ratios, and a time's noise grows with it.
  std::vector<double> logarithms;
  for (size_t i = skipped; i < times.size(); ++i) logarithms.push_back(std::log(times[i]));
  Search search(std::move(logarithms));
  std::vector<ChangePoint> changes;
  for (size_t i = 0, count = search.run().size(); i < count; ++i) {
    changes.push_back(search.change(i));
    changes.back().index += skipped;
  }
  return changes;
}

double geometric_mean(const std::vector<double>& times, size_t begin, size_t end) {
  double sum = 0;
  for (size_t i = begin; i < end; ++i) sum += std::log(times[i]);
  return std::exp(sum / static_cast<double>(end - begin));
}

}  // namespace lamina

// Where a series of times changed.
//
// E-divisive segmentation (Matteson and James, "A nonparametric approach for multiple change point analysis
// of multivariate data", JASA 2014) as it is used on benchmarks: Daly et al., "The use of change point
// detection to identify software performance regressions in a continuous integration system", ICPE 2020, and
// Fleming et al., "Hunter: using change point detection to hunt for performance regressions", ICPE 2023, who
// put Student's t-test in place of random permutations, search windows beside the whole, and merge what does
// not hold. So the same series always has the same change points.
#pragma once

#include <cstddef>
#include <vector>

namespace lamina {

struct ChangePoint {
  size_t index;      // of the first point after the change
  double ratio;      // time after over time before, of the stretches' geometric means
  double low, high;  // its 95 % interval, by Student's t, as if the place had been known
  double p;          // of the t-test, times the places where the change could have been
};

// A change needs this many points on either side: one odd launch is none.
inline constexpr size_t kLeastStretch = 3;
// A change is one from p = 1 % on, all places of the series counted, and from 2 % of the time on.
inline constexpr double kChangeLevel = 0.01;
inline constexpr double kLeastChange = 0.02;
// Older points are not searched: the search takes the square of their number.
inline constexpr size_t kMostPoints = 2000;

// `times` are positive and finite. In ascending order; indices count from the start of `times`, also where
// only its last kMostPoints were searched.
std::vector<ChangePoint> change_points(const std::vector<double>& times);

// The mean of times as ratios have it. `begin` < `end` ≤ times.size().
double geometric_mean(const std::vector<double>& times, size_t begin, size_t end);

}  // namespace lamina

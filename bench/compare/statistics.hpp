// Is one set of launches slower than another? Trimmed means of logarithms, Student's t, and Holm's
// correction. docs/regression.md has the rules and their sources.
#pragma once

#include <cstdint>
#include <vector>

namespace lamina::compare {

double mean(const std::vector<double>& values);

// Launches left out at each end of so many, so that one that the machine held up does not hide what the
// others say: one for every five past the first five, none below ten, which can spare none.
int64_t trimmed(int64_t count);

// The logarithm of a ratio of times, and how far it can be trusted.
struct Estimate {
  double log_ratio = 0;
  double standard_error = 0;
  double degrees = 0;  // of freedom
  double p_value = 1;  // two-sided, of no difference (Student, 1908)
};

// By pairs: element i of both was measured one right after the other. The trimmed mean of the differences,
// its error by their winsorized variance (Tukey and McLaughlin, 1963): Student's test where nothing is
// trimmed. Takes logarithms, as many of both, at least 2. Throws std::invalid_argument otherwise.
Estimate paired(const std::vector<double>& base, const std::vector<double>& next);

// Unpaired, of unequal variances (Welch, 1947), with the degrees of freedom of Satterthwaite (1946), likewise
// of trimmed means (Yuen, 1974). Takes logarithms, at least 2 of each. Throws std::invalid_argument
// otherwise.
Estimate unpaired(const std::vector<double>& base, const std::vector<double>& next);

struct Interval {
  double low = 0, high = 0;
};

// Of the logarithm of the ratio, two-sided, at a confidence of `level` (0.95).
Interval interval(const Estimate& estimate, double level);

// The smallest logarithm of a ratio that would have been called different with a chance of `power`, had this
// comparison been made again: a test at `alpha` (two-sided), and an estimate of at least `floor` (a
// logarithm).
double visible(const Estimate& estimate, double alpha, double floor, double power);

// P-values adjusted for being the smallest of many (Holm, 1979): comparing each with alpha, the chance that
// any true "no difference" is rejected is at most alpha, however the rows depend on each other.
std::vector<double> holm(const std::vector<double>& p_values);

// The largest share that `count` of `tries` independent ones do not contradict at this confidence, one-sided
// (Clopper and Pearson, 1934); 1 without tries.
double share_at_most(int64_t count, int64_t tries, double confidence);

}  // namespace lamina::compare

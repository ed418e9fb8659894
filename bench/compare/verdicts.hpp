// What two sides' rows say of each other. docs/regression.md has the rules.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/compare/side.hpp"

namespace lamina::compare {

struct Settings {
  double alpha = 0.01;          // chance that a comparison without any change calls any row slower or faster
  double floor = 0.02;          // estimates below +2 %, or above 1/1.02, are never called so
  double limit = 0.05;          // a row is ok when its interval stays below +5 %
  double quality_factor = 1.1;  // a larger growth of the error is a regression
  bool across_machines = false;
  bool times_only = false;  // not by cycles, even where rows have them
  // Of alpha, and of the interval's 5 %, for one of several looks at growing data: they add up to 1.
  double share = 1;
  // Of the rows' intervals: 95 %, or more at one of several looks.
  double level() const { return 1 - 0.05 * share; }
};

enum class Verdict { ok, slower, faster, inconclusive, missing, invalid, added, skipped };
enum class Quality { same, worse, better };
const char* name_of(Verdict verdict);
const char* name_of(Quality quality);

inline const double kUnknown = std::nan("");

struct Row {
  std::string name;
  Verdict verdict = Verdict::ok;
  Quality quality = Quality::same;
  std::string reason;  // of a verdict that no ratio explains
  std::vector<std::string> notes;
  int64_t base_launches = 0, new_launches = 0;  // that the ratio is of
  // NaN where there is none. Ratios are new / base; the interval is of this row alone, at Settings::level().
  double base_us = kUnknown, new_us = kUnknown;  // geometric means over launches
  // Whether the ratio is of cycles, not of times; and then what these are, as geometric means.
  bool by_cycles = false;
  double base_cycles = kUnknown, new_cycles = kUnknown;
  double ratio = kUnknown, ratio_low = kUnknown, ratio_high = kUnknown;
  double p_value = kUnknown, p_adjusted = kUnknown;
  double visible = kUnknown;  // the slowdown that would have been found in 95 of 100 such comparisons: 0.034
  double base_quality = kUnknown, new_quality = kUnknown;
};

struct Difference {
  std::string name, base, next;
};

struct Comparison {
  Settings settings;
  std::string base_path, new_path;
  int64_t base_launches = 0, new_launches = 0;
  std::string base_commit, new_commit;
  bool paired = false;
  std::vector<std::string> refusals;  // why there is no verdict; no rows then
  std::vector<Difference> differences;
  std::vector<std::string> notes;
  std::vector<Row> rows;  // in the order of the records

  int64_t count(Verdict verdict) const;
  int64_t regressions() const;  // slower, or of worse quality
  // No row is inconclusive.
  bool decided() const { return refusals.empty() && count(Verdict::inconclusive) == 0; }
  int exit_code() const;  // the first that holds of 64, 11, 10, 12, 0
};

Comparison compare(const Side& base, const Side& next, const Settings& settings);

}  // namespace lamina::compare

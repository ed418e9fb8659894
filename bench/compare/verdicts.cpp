#include "bench/compare/verdicts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "bench/compare/differences.hpp"
#include "bench/compare/statistics.hpp"
#include "bench/runner.hpp"

namespace lamina::compare {
namespace {

constexpr double kPower = 0.95;
constexpr double kWithCycles = 0.8;  // share of launches that must have cycles for a row to be judged by them
// Of Σ(y−y₀)²/Σy₀²: below, it is the rounding of float32, which any order of summation changes.
constexpr double kRoundingError = 1e-10;
constexpr size_t kMostWarnings = 5;

// The rows of one case, one of each launch; null where a launch has none.
using Rows = std::vector<const LaunchRow*>;

Rows rows_of(const Side& side, const std::string& name) {
  Rows rows;
  for (const Launch& launch : side.launches) {
    const auto found = launch.rows.find(name);
    rows.push_back(found == launch.rows.end() ? nullptr : &found->second);
  }
  return rows;
}

int64_t count_if(const Rows& rows, const std::function<bool(const LaunchRow&)>& test) {
  return std::count_if(rows.begin(), rows.end(), [&](const LaunchRow* row) { return row && test(*row); });
}

bool is_ok(const LaunchRow& row) {
  return row.status == "ok";
}
bool is_skipped(const LaunchRow& row) {
  return row.status == "skipped";
}
bool is_bad(const LaunchRow& row) {
  return !is_ok(row) && !is_skipped(row);
}

std::string share_of(int64_t count, const Rows& rows) {
  return rows.size() == 1 ? "" : fmt::format(" in {} of {} launches", count, rows.size());
}

// The first row that is so, with its reason.
std::string told(const Rows& rows, const std::function<bool(const LaunchRow&)>& test) {
  for (const LaunchRow* row : rows) {
    if (!row || !test(*row)) continue;
    const std::string status = row->status.empty() ? "no status" : row->status;
    return status + share_of(count_if(rows, test), rows) + (row->reason.empty() ? "" : ": " + row->reason);
  }
  return "";
}

// A verdict by status alone; false when the times must tell.
bool settle(const Rows& base, const Rows& next, Row& row) {
  const int64_t present = count_if(next, [](const LaunchRow&) { return true; });
  const bool base_timed = count_if(base, is_ok) > 0;
  if (count_if(next, is_bad) > 0) {
    row.verdict = Verdict::invalid;
    row.reason = told(next, is_bad);
  } else if (present == 0 && !base_timed && count_if(base, is_bad) == 0) {
    row.verdict = Verdict::skipped;
    row.reason = "BASE: " + told(base, is_skipped) + "; not in NEW";
  } else if (present < static_cast<int64_t>(next.size())) {
    row.verdict = Verdict::missing;
    row.reason = "not in NEW";
    if (present > 0)
      row.reason = fmt::format("not in {} of {} launches of NEW", next.size() - static_cast<size_t>(present),
                               next.size());
  } else if (count_if(next, is_skipped) > 0) {
    row.verdict = base_timed ? Verdict::missing : Verdict::skipped;
    row.reason = "NEW: " + told(next, is_skipped);
  } else if (!base_timed) {
    row.verdict = Verdict::added;
    row.reason = count_if(base, [](const LaunchRow&) { return true; }) == 0
                     ? "not in BASE"
                     : "BASE: " + told(base, [](const LaunchRow& one) { return !is_ok(one); });
  } else {
    return false;
  }
  return true;
}

double mean_log(const Rows& rows, double LaunchRow::*value) {
  std::vector<double> logs;
  for (const LaunchRow* row : rows) logs.push_back(std::log(row->*value));
  return mean(logs);
}

// Launches of both sides that have cycles, where nearly all have: pairs where launches are paired. A launch
// in which the clock never stood still has none.
bool with_cycles(const Rows& base, const Rows& next, bool by_pairs, Rows& old_rows, Rows& new_rows) {
  const auto has = [](const LaunchRow* one) { return one->cycles > 0; };
  for (size_t i = 0; i < base.size(); ++i)
    if (has(base[i]) && (!by_pairs || has(next[i]))) old_rows.push_back(base[i]);
  for (size_t i = 0; i < next.size(); ++i)
    if (has(next[i]) && (!by_pairs || has(base[i]))) new_rows.push_back(next[i]);
  const auto enough = [](const Rows& some, const Rows& all) {
    return static_cast<double>(some.size()) >= kWithCycles * static_cast<double>(all.size());
  };
  return !old_rows.empty() && enough(old_rows, base) && enough(new_rows, next);
}

// What the tests of a row say. `time` is of the same row by time where the row is judged by cycles.
struct Tests {
  Estimate row;
  std::optional<Estimate> time;
};

Estimate test_of(const Rows& base, const Rows& next, bool by_pairs, bool by_cycles) {
  std::vector<double> old_logs, new_logs;
  for (const LaunchRow* one : base) old_logs.push_back(std::log(one->measured(by_cycles)));
  for (const LaunchRow* one : next) new_logs.push_back(std::log(one->measured(by_cycles)));
  return by_pairs ? paired(old_logs, new_logs) : unpaired(old_logs, new_logs);
}

// Ratio and tests, where both sides have two launches. Every row of `next` is ok, and one of `base`.
std::optional<Tests> estimate(const Rows& base, const Rows& next, bool by_pairs, const Settings& settings,
                              Row& row) {
  Rows old_rows, new_rows, old_cycles, new_cycles;
  for (const LaunchRow* one : base)
    if (one && is_ok(*one)) old_rows.push_back(one);
  for (size_t i = 0; i < next.size(); ++i)
    if (!by_pairs || (base[i] && is_ok(*base[i]))) new_rows.push_back(next[i]);
  row.base_launches = static_cast<int64_t>(old_rows.size());
  row.new_launches = static_cast<int64_t>(new_rows.size());
  row.base_us = std::exp(mean_log(old_rows, &LaunchRow::time_us));
  row.new_us = std::exp(mean_log(new_rows, &LaunchRow::time_us));
  row.ratio = row.new_us / row.base_us;
  // Two machines' cycles are not of one length.
  row.by_cycles = !settings.times_only && !settings.across_machines &&
                  with_cycles(old_rows, new_rows, by_pairs, old_cycles, new_cycles);
  if (row.by_cycles) {
    row.base_cycles = std::exp(mean_log(old_cycles, &LaunchRow::cycles));
    row.new_cycles = std::exp(mean_log(new_cycles, &LaunchRow::cycles));
    row.ratio = row.new_cycles / row.base_cycles;
    const double old_clock = mean_log(old_cycles, &LaunchRow::clock_mhz),
                 new_clock = mean_log(new_cycles, &LaunchRow::clock_mhz);
    if (std::fabs(new_clock - old_clock) > std::log1p(settings.floor))
      row.notes.push_back(fmt::format(
          "its core ran at {:.0f} MHz in BASE, at {:.0f} in NEW: cycles are compared, and times where "
          "they are certain",
          std::exp(old_clock), std::exp(new_clock)));
    if (old_cycles.size() < old_rows.size() || new_cycles.size() < new_rows.size())
      row.notes.push_back(fmt::format("cycles in {} of {} launches of BASE, in {} of {} of NEW",
                                      old_cycles.size(), old_rows.size(), new_cycles.size(),
                                      new_rows.size()));
  }
  if (row.base_launches < 2 || row.new_launches < 2 ||
      (row.by_cycles && std::min(old_cycles.size(), new_cycles.size()) < 2))
    return std::nullopt;
  Tests tests;
  if (row.by_cycles) {
    tests.row = test_of(old_cycles, new_cycles, by_pairs, true);
    tests.time = test_of(old_rows, new_rows, by_pairs, false);
  } else {
    tests.row = test_of(old_rows, new_rows, by_pairs, false);
  }
  row.ratio = std::exp(tests.row.log_ratio);
  // Very few launches that differ wildly have an interval beyond what a double holds.
  const Interval within = interval(tests.row, settings.level());
  row.ratio_low = std::exp(std::max(within.low, -700.0));
  row.ratio_high = std::exp(std::min(within.high, 700.0));
  return tests;
}

void judge_quality(const Rows& base, const Rows& next, const Settings& settings, Row& row) {
  // The worst launch: an error that comes and goes is an error.
  double old_error = -1, new_error = -1, old_check = -1, new_check = -1;
  bool lost = false;
  for (const LaunchRow* one : base)
    if (one && is_ok(*one)) {
      old_error = std::max(old_error, one->quality);
      old_check = std::max(old_check, one->check_share);
    }
  for (const LaunchRow* one : next) {
    new_error = std::max(new_error, one->quality);
    new_check = std::max(new_check, one->check_share);
    lost = lost || one->quality < 0;
  }
  if (old_error >= 0) row.base_quality = old_error;
  if (new_error >= 0) row.new_quality = new_error;
  if (old_error >= 0 && lost) {
    row.verdict = Verdict::invalid;
    row.reason = "NEW has no quality_nmse or svd_error, which BASE has";
  } else if (old_error >= 0 && new_error >= 0) {
    if (new_error > std::max(old_error, kRoundingError) * settings.quality_factor) {
      row.quality = Quality::worse;
      row.notes.push_back(
          fmt::format("error against the original weights {:.3g} → {:.3g}", old_error, new_error));
    } else if (old_error > std::max(new_error, kRoundingError) * settings.quality_factor) {
      row.quality = Quality::better;
    }
  }
  if (new_check > 0.5 && new_check > 2 * old_check && old_check >= 0)
    row.notes.push_back(
        fmt::format("the check uses {:.2g} of its tolerance, {:.2g} before", new_check, old_check));
}

// A row with tests: all tests share alpha.
struct Tested {
  size_t row = 0;
  Tests tests;
};

// By cycles a build can be faster that makes its core slower. So its time is tested too: what is certain in
// it counts, and a row whose mean time is over the limit is not ok. `seen` is what its time could have shown.
void judge_by_time(const Estimate& time, double p_adjusted, double seen, const Settings& settings,
                   double alpha, Row& row) {
  const bool slower = p_adjusted <= alpha && time.log_ratio >= std::log1p(settings.floor);
  if (slower && row.verdict != Verdict::slower) {
    row.verdict = Verdict::slower;
    row.notes.push_back(
        fmt::format("by its time, {:+.1f} %, not by its cycles", 100 * std::expm1(time.log_ratio)));
  } else if (row.verdict == Verdict::faster && time.log_ratio > 0) {
    row.verdict = Verdict::inconclusive;
    row.notes.push_back("fewer cycles, in no less time");
  } else if (row.verdict == Verdict::ok && time.log_ratio > std::log1p(settings.limit)) {
    row.verdict = Verdict::inconclusive;
    row.visible = seen;
    row.notes.push_back("no more cycles, in more time");
  }
}

void judge_times(const std::vector<Tested>& tested, Comparison& result) {
  const Settings& settings = result.settings;
  std::vector<double> p_values;
  for (const Tested& one : tested) p_values.push_back(one.tests.row.p_value);
  for (const Tested& one : tested)
    if (one.tests.time) p_values.push_back(one.tests.time->p_value);
  const std::vector<double> adjusted = holm(p_values);
  const double floor = std::log1p(settings.floor), alpha = settings.alpha * settings.share;
  size_t of_time = tested.size();
  for (size_t i = 0; i < tested.size(); ++i) {
    Row& row = result.rows[tested[i].row];
    const Estimate& estimate = tested[i].tests.row;
    row.p_value = estimate.p_value;
    row.p_adjusted = adjusted[i];
    // As the row with the least p-value is tested: no other needs less.
    const auto seen = [&](const Estimate& one) {
      return std::expm1(
          std::min(visible(one, alpha / static_cast<double>(p_values.size()), floor, kPower), 700.0));
    };
    row.visible = seen(estimate);
    if (adjusted[i] <= alpha && std::fabs(estimate.log_ratio) >= floor)
      row.verdict = estimate.log_ratio > 0 ? Verdict::slower : Verdict::faster;
    else
      row.verdict = row.ratio_high <= 1 + settings.limit ? Verdict::ok : Verdict::inconclusive;
    if (const auto& time = tested[i].tests.time)
      judge_by_time(*time, adjusted[of_time++], seen(*time), settings, alpha, row);
  }
}

std::vector<std::string> cases_of(const Side& base, const Side& next) {
  std::vector<std::string> names;
  std::set<std::string> known;
  for (const Side* side : {&base, &next})
    for (const Launch& launch : side->launches)
      for (const std::string& name : launch.cases)
        if (known.insert(name).second) names.push_back(name);
  return names;
}

// Warnings that differ in their figures alone count together, as the first of them.
void note_warnings(const Side& base, const Side& next, std::vector<std::string>& notes) {
  std::map<std::string, std::pair<std::string, int64_t>> kinds;
  for (const Side* side : {&base, &next})
    for (const Launch& launch : side->launches)
      for (const auto& [name, row] : launch.rows)
        for (const std::string& warning : row.warnings) {
          std::string kind = warning;
          std::erase_if(kind, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
          ++kinds.emplace(kind, std::pair{warning, int64_t{0}}).first->second.second;
        }
  size_t told = 0;
  for (const auto& [kind, first] : kinds) {
    if (++told > kMostWarnings) {
      notes.push_back(fmt::format("{} more kinds of warnings in the records", kinds.size() - kMostWarnings));
      break;
    }
    notes.push_back(fmt::format("warned of in {} rows of all launches: {}", first.second, first.first));
  }
}

std::string kernels_of(const Rows& rows) {
  std::set<std::string> kernels;
  for (const LaunchRow* row : rows)
    if (row && is_ok(*row)) kernels.insert(row->kernel);
  return fmt::format("{}", fmt::join(kernels, " or "));
}

Row judge(const std::string& name, const Side& base, const Side& next, Comparison& result,
          std::vector<Tested>& tested) {
  Row row;
  row.name = name;
  const Rows old_rows = rows_of(base, name), new_rows = rows_of(next, name);
  if (settle(old_rows, new_rows, row)) return row;
  const auto estimated = estimate(old_rows, new_rows, result.paired, result.settings, row);
  const int64_t timed = count_if(old_rows, is_ok);
  if (timed < static_cast<int64_t>(old_rows.size()))
    row.notes.push_back(fmt::format("ok in {} of {} launches of BASE", timed, old_rows.size()));
  if (estimated) {
    tested.push_back({result.rows.size(), *estimated});
  } else {
    row.verdict = Verdict::inconclusive;
    row.reason = "one launch a side cannot decide";
  }
  const std::string old_kernel = kernels_of(old_rows), new_kernel = kernels_of(new_rows);
  if (old_kernel != new_kernel) row.notes.push_back("kernel " + old_kernel + " → " + new_kernel);
  judge_quality(old_rows, new_rows, result.settings, row);
  if (row.verdict == Verdict::invalid && estimated) tested.pop_back();
  return row;
}

}  // namespace

const char* name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::slower:
      return "slower";
    case Verdict::faster:
      return "faster";
    case Verdict::inconclusive:
      return "inconclusive";
    case Verdict::missing:
      return "missing";
    case Verdict::invalid:
      return "invalid";
    case Verdict::added:
      return "added";
    case Verdict::skipped:
      return "skipped";
  }
  return "";
}

const char* name_of(Quality quality) {
  switch (quality) {
    case Quality::same:
      return "same";
    case Quality::worse:
      return "worse";
    case Quality::better:
      return "better";
  }
  return "";
}

int64_t Comparison::count(Verdict verdict) const {
  return std::count_if(rows.begin(), rows.end(), [&](const Row& row) { return row.verdict == verdict; });
}

int64_t Comparison::regressions() const {
  return std::count_if(rows.begin(), rows.end(), [](const Row& row) {
    return row.verdict == Verdict::slower || row.quality == Quality::worse;
  });
}

int Comparison::exit_code() const {
  if (!refusals.empty()) return kExitUsage;
  if (count(Verdict::missing) + count(Verdict::invalid) > 0) return kExitMissing;
  if (regressions() > 0) return kExitRegression;
  return count(Verdict::inconclusive) > 0 ? kExitInconclusive : kExitOk;
}

Comparison compare(const Side& base, const Side& next, const Settings& settings) {
  Comparison result;
  result.settings = settings;
  result.base_path = base.path;
  result.new_path = next.path;
  result.base_launches = static_cast<int64_t>(base.launches.size());
  result.new_launches = static_cast<int64_t>(next.launches.size());
  result.paired = interleaved(base, next);
  find_differences(base, next, result);
  if (!result.refusals.empty()) return result;

  std::vector<Tested> tested;
  for (const std::string& name : cases_of(base, next))
    result.rows.push_back(judge(name, base, next, result, tested));
  judge_times(tested, result);
  note_warnings(base, next, result.notes);
  const int64_t silent = result.count(Verdict::added) + result.count(Verdict::skipped);
  if (silent == static_cast<int64_t>(result.rows.size())) {
    result.rows.clear();
    result.refusals.push_back("no row has a time on both sides: there is nothing to compare");
  }
  return result;
}

}  // namespace lamina::compare

// What gates of recorded launches call and find.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bench/compare/verdicts.hpp"

namespace lamina::compare {

// Slowdowns that are injected, by multiplying recorded times.
inline const std::vector<double> kInjected = {0.01, 0.02, 0.03, 0.05, 0.10};

// Launches in pairs: launch K of each side ran beside launch K of the others.
struct Bank {
  Side base{"base", {}}, next{"new", {}};  // one build
  std::vector<Side> slow = {};             // builds made slower
};

// With one native row of a slower build's launches at a time in place of NEW's: rows tried, and called
// slower.
struct SlowRate {
  int64_t apart = 0, apart_found = 0;  // in gates without a pair in common
  int64_t drawn = 0, drawn_found = 0;
  // The rows that such a build computes as any other does, libraries': tried and called, which is a false
  // alarm.
  int64_t others = 0, others_called = 0;
};

inline constexpr int64_t kDrawnGates = 400;

// What gates of so many pairs do.
struct Rate {
  int64_t pairs = 0;
  // Gates without a pair in common, in the order of recording: as many as the bank has.
  int64_t apart_gates = 0, apart_rows = 0, apart_false_gates = 0, apart_false_rows = 0;
  // Gates of pairs drawn from the bank, builds swapped at random within each pair; they share pairs.
  int64_t gates = 0, rows = 0, false_gates = 0, false_rows = 0;
  std::vector<double> found;  // share of gates in which the one slowed row is called slower, per kInjected
  // The same where the row takes more time in as many cycles, as on a slower clock; and the share in which it
  // passes.
  std::vector<double> found_by_time, passed_by_time;
  // The same at +5 % by row: how often it was the slowed one, and called slower.
  std::map<std::string, std::pair<int64_t, int64_t>> rows_at_5;
  std::vector<SlowRate> slow;  // of each slower build
  // Of the drawn gates as `ab` judges them, with looks before all pairs are measured: those that call the row
  // at +5 % slower, and the pairs they took; and of those without a change the ones with a false alarm, and
  // undecided to the end.
  int64_t ab_found = 0, ab_pairs = 0, ab_false = 0, ab_undecided = 0;
};

// Deterministic. All sides have as many launches, interleaved; throws std::runtime_error where they do not
// compare.
std::vector<Rate> rates_of(const Bank& bank, const Settings& settings);

// How much slower each row of a native kernel is in `slow` than in `base`, as new / base by geometric means
// of what is compared (cycles or times), in the order of names. Rows must have a time in every launch.
std::vector<double> slowdowns(const Side& base, const Side& slow, const Settings& settings = {});

// The fewest pairs with which a row that is 5 % slower is found in 95 % of gates, by one look and by `ab`'s,
// and 1 % of rows at most are false alarms; 0 where none of those tried does.
int64_t enough_pairs(const std::vector<Rate>& rates);

}  // namespace lamina::compare

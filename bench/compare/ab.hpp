// `lamina ab`: two builds measured in turn, until every row is decided.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/compare/pairs.hpp"

namespace lamina::compare {

// When the data is looked at: after so many pairs, with such a share of alpha.
struct Look {
  int64_t pairs = 0;
  double share = 1;
};
// After 40, 70 and 100 % of the pairs, with a tenth, two tenths and the rest of alpha, whose sum keeps the
// chance of a false alarm over all looks (Bonferroni's inequality). Below 5 pairs: at the end alone.
std::vector<Look> looks_of(int64_t launches);

// Fills DIR/base/launch-K and DIR/new/launch-K, K from 1, in an order drawn anew for each pair. Stops at a
// look at which no row is inconclusive. Prints the report, writes DIR/verdict.json and DIR/report.md, and
// returns compare's exit code, or 1 where a launch failed.
int run_ab(const AbOptions& options);

}  // namespace lamina::compare

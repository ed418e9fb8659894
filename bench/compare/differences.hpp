// What differs between two sides besides times: machines, configs, versions; and what forbids comparing them.
#pragma once

#include "bench/compare/side.hpp"
#include "bench/compare/verdicts.hpp"

namespace lamina::compare {

// Fills refusals, differences, notes and commits of `result`.
void find_differences(const Side& base, const Side& next, Comparison& result);

}  // namespace lamina::compare

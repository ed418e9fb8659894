// `lamina selftest`: what a gate of `lamina ab` would be worth on this machine, with this config.
#pragma once

#include <string>
#include <vector>

#include "bench/compare/pairs.hpp"
#include "bench/compare/rates.hpp"

namespace lamina::compare {

// What selftest.md holds.
std::string selftest_text(const Bank& bank, const std::vector<Rate>& rates, const Settings& settings);

// What times.csv holds, a line a row and launch: enough to judge the bank again.
std::string times_text(const Bank& bank);

// Measures this program against itself, `options.launches` pairs, and prints the rates. Returns 0 where a
// gate is worth having, 12 where it is not, 1 where a launch failed, or 64.
int run_selftest(AbOptions options);

}  // namespace lamina::compare

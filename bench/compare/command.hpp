// `lamina compare`: two sides, one report, one exit code.
#pragma once

#include <string>

#include "bench/compare/verdicts.hpp"

namespace lamina::compare {

struct Options {
  std::string base, next;
  Settings settings;
  std::string format = "terminal";  // terminal, markdown or json, on stdout
  std::string out_file;             // the JSON verdict, written whole; empty: none
  bool all = false;                 // the terminal's report lists every row
};

// Prints the report, writes the verdict, and returns the exit code: 0, 10, 11, 12 or 64 of the comparison, or
// 1 where the report could not be written. Refusals and what cannot be read go to stderr, without a verdict.
int compare_runs(const Options& options);

// The same for a comparison that was made.
int report(const Comparison& comparison, const Options& options);

}  // namespace lamina::compare

// A comparison as people and programs read it.
#pragma once

#include <string>
#include <vector>

#include "bench/compare/verdicts.hpp"

namespace lamina::compare {

// One line: what came of it, and of how many rows. "regression: of 12 rows, 1 slower, 2
// inconclusive, 9 ok".
std::string headline(const Comparison& comparison);

// Rows that want attention first, each with its ratio on a scale that all rows share. Rows that are ok are
// counted where there are many, unless `all`.
std::string terminal_report(const Comparison& comparison, bool all);

// GitHub's and GitLab's Markdown, for a comment: rows that want attention in a table, the others folded.
// Names from the records stand in code spans; nothing of them is obeyed. No longer than a comment may be.
std::string markdown_report(const Comparison& comparison);

// One JSON object, with a newline: every row with its figures. docs/regression.md has the keys.
std::string json_report(const Comparison& comparison);

// Of the intervals: 95, or more at one of several looks.
double level_percent(const Comparison& comparison);
// For the reports. +5.1 %, or ×12.3 where percent would be hard to read; "?" for NaN.
std::string change(double ratio);
// Invalid and missing rows first, then regressions by size, inconclusive ones, the others as they came.
std::vector<const Row*> by_urgency(const Comparison& comparison);
// The verdict with what stands beside it: "inconclusive (could have seen 7.3 %)", "ok, worse quality".
std::string verdict_text(const Row& row);
std::string rules_text(const Comparison& comparison);

}  // namespace lamina::compare

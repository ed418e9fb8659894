#include "bench/compare/ab.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "bench/atomic_file.hpp"
#include "bench/compare/report.hpp"
#include "bench/runner.hpp"

namespace lamina::compare {
namespace {

namespace fs = std::filesystem;

int64_t decided_rows(const Comparison& comparison) {
  return static_cast<int64_t>(comparison.rows.size()) - comparison.count(Verdict::inconclusive);
}

Comparison compare_pairs(const Pairs& pairs, int64_t count, const Settings& settings) {
  std::vector<std::string> warnings;
  const Side base = read_launches(pairs, 0, count, warnings), next = read_launches(pairs, 1, count, warnings);
  Comparison comparison = compare(base, next, settings);
  comparison.notes.insert(comparison.notes.begin(), warnings.begin(), warnings.end());
  return comparison;
}

// Pair after pair, with a look where one is due.
Comparison measure(Pairs& pairs, Settings settings) {
  const std::vector<Look> looks = looks_of(pairs.count);
  size_t look = 0;
  for (int64_t number = 1;; ++number) {
    if (make_pair(pairs, number))
      fmt::print(stderr, "lamina: pair {} of at most {} is done; {:.0f} s left at most{}\n", number,
                 pairs.count, seconds_left(pairs, number),
                 looks[look].pairs > number ? fmt::format(", next look at pair {}", looks[look].pairs) : "");
    if (number == 1 && number < looks[look].pairs) {
      // What cannot be compared is known now.
      Comparison first = compare_pairs(pairs, 1, settings);
      if (!first.refusals.empty()) return first;
    }
    if (number < looks[look].pairs) continue;
    settings.share = looks[look].share;
    Comparison comparison = compare_pairs(pairs, number, settings);
    fmt::print(stderr, "lamina: look at {} pairs: {} of {} rows decided\n", number, decided_rows(comparison),
               comparison.rows.size());
    if (!comparison.refusals.empty() || comparison.decided() || ++look == looks.size()) return comparison;
  }
}

}  // namespace

std::vector<Look> looks_of(int64_t launches) {
  if (launches < 5) return {{launches, 1}};
  // Upwards: 40 % of 6 are 3.
  return {{(launches * 4 + 9) / 10, 0.1}, {(launches * 7 + 9) / 10, 0.2}, {launches, 0.7}};
}

int run_ab(const AbOptions& options) {
  return with_pairs("ab", options, [&](Pairs& pairs) {
    const Comparison comparison = measure(pairs, options.report.settings);
    if (comparison.refusals.empty())
      write_file_atomically((fs::path(pairs.path) / "report.md").string(), markdown_report(comparison));
    Options how = options.report;
    how.out_file = (fs::path(pairs.path) / "verdict.json").string();
    return report(comparison, how);
  });
}

}  // namespace lamina::compare

#include "bench/compare/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/runner.hpp"
#include "bench/text.hpp"

namespace lamina::compare {
namespace {

constexpr int kHalf = 15;         // columns of the scale on each side of 1
constexpr size_t kManyRows = 40;  // of ok ones, and no more are listed unasked

int urgency(const Row& row) {
  switch (row.verdict) {
    case Verdict::invalid:
      return 0;
    case Verdict::missing:
      return 1;
    case Verdict::slower:
      return 2;
    default:
      break;
  }
  if (row.quality == Quality::worse) return 3;
  switch (row.verdict) {
    case Verdict::inconclusive:
      return 4;
    case Verdict::faster:
      return 5;
    case Verdict::ok:
      return 6;
    case Verdict::added:
      return 7;
    default:
      return 8;
  }
}

// The smallest of these that every interval fits in, as a logarithm; the largest cuts.
double scale_of(const Comparison& comparison) {
  const double steps[] = {0.02, 0.05, 0.1, 0.2, 0.5, 1};
  double reach = 0;
  for (const Row& row : comparison.rows)
    for (const double ratio : {row.ratio, row.ratio_low, row.ratio_high})
      if (ratio > 0) reach = std::max(reach, std::fabs(std::log(ratio)));
  for (const double step : steps)
    if (reach <= std::log1p(step)) return step;
  return 1;
}

// The estimate as ●, its interval as a line, 1 as │; ‹ and › where something lies beyond.
std::string plot(const Row& row, double scale) {
  std::vector<std::string> cells(2 * kHalf + 1, " ");
  cells[kHalf] = "│";
  const auto column = [&](double ratio) {
    const double at = std::log(ratio) / std::log1p(scale) * kHalf;
    return static_cast<int>(std::lround(std::clamp(at, -1.0 * kHalf - 1, 1.0 * kHalf + 1))) + kHalf;
  };
  if (row.ratio > 0) {
    if (row.ratio_low > 0) {
      const int low = column(row.ratio_low), high = column(row.ratio_high);
      for (int i = std::max(low, 0); i <= std::min(high, 2 * kHalf); ++i)
        cells[static_cast<size_t>(i)] = i == kHalf ? "┼" : "─";
      if (low < 0) cells.front() = "‹";
      if (high > 2 * kHalf) cells.back() = "›";
    }
    const int center = column(row.ratio);
    if (center < 0)
      cells.front() = "‹";
    else if (center > 2 * kHalf)
      cells.back() = "›";
    else
      cells[static_cast<size_t>(center)] = "●";
  }
  std::string text;
  for (const std::string& cell : cells) text += cell;
  return text;
}

std::string padded(const std::string& text, size_t width) {
  const size_t taken = display_width(text);
  return text + std::string(width > taken ? width - taken : 0, ' ');
}

std::string side_line(const char* label, const std::string& path, int64_t launches,
                      const std::string& commit) {
  return fmt::format("{}  {}  {} launch{}{}\n", label, printable(path), launches, launches == 1 ? "" : "es",
                     commit.empty() ? "" : ", commit " + printable(commit));
}

}  // namespace

double level_percent(const Comparison& comparison) {
  return 100 * comparison.settings.level();
}

std::string change(double ratio) {
  if (!(ratio > 0)) return "?";
  if (ratio >= 10 || ratio <= 0.1) return fmt::format("×{:.3g}", ratio);
  return fmt::format("{:+.1f} %", 100 * (ratio - 1));
}

std::vector<const Row*> by_urgency(const Comparison& comparison) {
  std::vector<const Row*> rows;
  for (const Row& row : comparison.rows) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [](const Row* a, const Row* b) {
    if (urgency(*a) != urgency(*b)) return urgency(*a) < urgency(*b);
    return a->verdict == Verdict::slower && a->ratio > b->ratio;
  });
  return rows;
}

std::string verdict_text(const Row& row) {
  std::string text = name_of(row.verdict);
  if (row.verdict == Verdict::inconclusive && !std::isnan(row.visible))
    text += row.visible < 10 ? fmt::format(" (could have seen {:.1f} %)", 100 * row.visible)
                             : " (could have seen only far more)";
  if (row.quality != Quality::same) text += fmt::format(", {} quality", name_of(row.quality));
  return text;
}

std::string headline(const Comparison& comparison) {
  std::string text;
  switch (comparison.exit_code()) {
    case kExitOk:
      text = "ok";
      break;
    case kExitRegression:
      text = "regression";
      break;
    case kExitMissing:
      text = "rows missing or invalid";
      break;
    case kExitInconclusive:
      text = "inconclusive";
      break;
    default:
      return "not comparable";
  }
  std::string counts;
  const auto add = [&](int64_t count, const char* what) {
    if (count > 0) counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", count, what);
  };
  for (const Verdict verdict : {Verdict::invalid, Verdict::missing, Verdict::slower})
    add(comparison.count(verdict), name_of(verdict));
  const auto worse = std::count_if(comparison.rows.begin(), comparison.rows.end(),
                                   [](const Row& row) { return row.quality == Quality::worse; });
  add(worse, "of worse quality");
  for (const Verdict verdict :
       {Verdict::inconclusive, Verdict::faster, Verdict::ok, Verdict::added, Verdict::skipped})
    add(comparison.count(verdict), name_of(verdict));
  return fmt::format("{}: of {} rows, {}", text, comparison.rows.size(), counts);
}

std::string rules_text(const Comparison& comparison) {
  const Settings& settings = comparison.settings;
  const auto tested = std::count_if(comparison.rows.begin(), comparison.rows.end(),
                                    [](const Row& row) { return !std::isnan(row.p_value); });
  if (tested == 0) return "Nothing was tested: that takes two launches a side.";
  const auto by_cycles = std::count_if(comparison.rows.begin(), comparison.rows.end(),
                                       [](const Row& row) { return row.by_cycles; });
  const std::string measure =
      by_cycles == 0 ? "" : fmt::format(" ({} by their core's cycles, not its time)", by_cycles);
  return fmt::format(
      "Of {} rows{}, {} Student's t of logarithms per launch, Holm at {:.2g}, changes under {:.2g} % never "
      "called; "
      "ok is a {:.4g} % interval below +{:.2g} %.",
      tested, measure,
      comparison.paired ? "by pairs of interleaved launches:" : "launches not interleaved, Welch's form of",
      settings.alpha * settings.share, 100 * settings.floor, level_percent(comparison), 100 * settings.limit);
}

std::string terminal_report(const Comparison& comparison, bool all) {
  std::string text =
      side_line("BASE", comparison.base_path, comparison.base_launches, comparison.base_commit) +
      side_line("NEW ", comparison.new_path, comparison.new_launches, comparison.new_commit);
  for (const Difference& one : comparison.differences)
    text += fmt::format("differs: {}: {} → {}\n", one.name, printable(one.base), printable(one.next));
  for (const std::string& note : comparison.notes) text += "note: " + printable(note) + "\n";

  const double scale = scale_of(comparison);
  const size_t verdict_width = 14, plot_width = 2 * kHalf + 1;
  const std::string low = change(1 / (1 + scale)), high = change(1 + scale);
  text += "\n" + std::string(verdict_width, ' ') +
          padded(padded(low, kHalf) + "1", plot_width - high.size()) + high +
          fmt::format("  new / base, {:.4g} % interval\n", level_percent(comparison));
  const bool fold = !all && static_cast<size_t>(comparison.count(Verdict::ok)) > kManyRows;
  int64_t folded = 0;
  for (const Row* row : by_urgency(comparison)) {
    if (fold && row->verdict == Verdict::ok && row->quality != Quality::worse) {
      ++folded;
      continue;
    }
    std::string figures = std::isnan(row->ratio) ? "" : change(row->ratio);
    if (!std::isnan(row->ratio_low))
      figures += fmt::format(" [{}, {}]", change(row->ratio_low), change(row->ratio_high));
    const bool worse = row->quality == Quality::worse && row->verdict == Verdict::ok;
    text += padded(worse ? "worse" : name_of(row->verdict), verdict_width) +
            padded(plot(*row, scale), plot_width) + "  " + padded(figures, 26) + "  " + printable(row->name) +
            "\n";
    std::vector<std::string> lines = row->notes;
    if (!row->reason.empty()) lines.insert(lines.begin(), row->reason);
    const std::string whole = verdict_text(*row);
    if (whole != name_of(row->verdict)) lines.insert(lines.begin(), whole);
    for (const std::string& line : lines) text += std::string(verdict_width, ' ') + printable(line) + "\n";
  }
  if (fold) text += fmt::format("and {} rows ok (--all lists them)\n", folded);
  if (comparison.base_launches < 2 || comparison.new_launches < 2)
    text +=
        "\nOne launch a side cannot decide: launches differ by more than the samples of one can tell.\n"
        "Repeat both (`lamina ab`, or `lamina run CONFIG -o DIR/launch-1`, …) and compare the folders.\n";
  return text + "\n" + rules_text(comparison) + "\n" + headline(comparison) + "\n";
}

}  // namespace lamina::compare

#include <fmt/format.h>

#include <cmath>

#include "bench/compare/report.hpp"
#include "bench/text.hpp"

namespace lamina::compare {
namespace {

// GitHub refuses comments of over 65,536 characters.
constexpr size_t kLongestTable = 25'000, kLongestText = 300;

std::string shortened(const std::string& text) {
  if (text.size() <= kLongestText) return text;
  // Not within a code point.
  size_t end = kLongestText;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

// A code span, in which neither Markdown nor HTML nor @names mean anything. What would end the span or a
// table's cell is written as its code.
std::string code(const std::string& text) {
  std::string out;
  for (const char c : printable(shortened(text))) {
    if (c == '`' || c == '|')
      out += fmt::format("\\x{:02x}", c);
    else
      out += c;
  }
  return out.empty() ? "" : "`" + out + "`";
}

std::string line_of(const Row& row) {
  std::string notes = code(row.reason);
  for (const std::string& note : row.notes) notes += (notes.empty() ? "" : "<br>") + code(note);
  std::string interval;
  if (!std::isnan(row.ratio_low))
    interval = fmt::format("{} to {}", change(row.ratio_low), change(row.ratio_high));
  std::string times;
  if (row.by_cycles)
    times = significant(row.base_cycles, 4) + " → " + significant(row.new_cycles, 4) + " cycles";
  else if (!std::isnan(row.base_us))
    times = significant(row.base_us, 4) + " → " + significant(row.new_us, 4);
  return fmt::format("| {} | {} | {} | {} | {} | {} |\n", verdict_text(row), code(row.name),
                     std::isnan(row.ratio) ? "" : change(row.ratio), interval, times, notes);
}

std::string table_of(const Comparison& comparison, const std::vector<const Row*>& rows) {
  std::string text =
      fmt::format("| verdict | row | new / base | {:.4g} % interval | µs | |\n|:--|:--|--:|:--|--:|:--|\n",
                  level_percent(comparison));
  size_t told = 0;
  for (; told < rows.size() && text.size() < kLongestTable; ++told) text += line_of(*rows[told]);
  if (told < rows.size()) text += fmt::format("\n{} more are in the JSON verdict.\n", rows.size() - told);
  return text;
}

std::string side_text(const std::string& path, int64_t launches, const std::string& commit) {
  return fmt::format("{} ({} launch{}{})", code(path), launches, launches == 1 ? "" : "es",
                     commit.empty() ? "" : ", commit " + code(commit));
}

}  // namespace

std::string markdown_report(const Comparison& comparison) {
  std::string text = fmt::format("### Lamina: {}\n\n", headline(comparison));
  text += side_text(comparison.new_path, comparison.new_launches, comparison.new_commit) + " against " +
          side_text(comparison.base_path, comparison.base_launches, comparison.base_commit) + ".\n\n";
  std::vector<const Row*> urgent, others;
  for (const Row* row : by_urgency(comparison)) {
    const bool quiet =
        (row->verdict == Verdict::ok || row->verdict == Verdict::skipped || row->verdict == Verdict::added) &&
        row->quality != Quality::worse;
    (quiet ? others : urgent).push_back(row);
  }
  if (!urgent.empty()) text += table_of(comparison, urgent) + "\n";
  if (!others.empty())
    text += fmt::format("<details><summary>{} other rows</summary>\n\n{}\n</details>\n\n", others.size(),
                        table_of(comparison, others));
  if (comparison.base_launches < 2 || comparison.new_launches < 2)
    text += "One launch a side cannot decide: launches differ by more than the samples of one can tell.\n\n";
  for (const Difference& one : comparison.differences)
    text += fmt::format("- {} differs: {} → {}\n", one.name, code(one.base), code(one.next));
  for (const std::string& note : comparison.notes) text += "- " + code(note) + "\n";
  if (!comparison.differences.empty() || !comparison.notes.empty()) text += "\n";
  return text + "<sub>" + rules_text(comparison) + "</sub>\n";
}

}  // namespace lamina::compare

// `lamina history show`: a line for each case, or one case's past.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <stdexcept>

#include "bench/atomic_file.hpp"
#include "bench/export.hpp"
#include "bench/history/actions.hpp"
#include "bench/history/changes.hpp"
#include "bench/runner.hpp"
#include "bench/sinks/columns.hpp"
#include "bench/text.hpp"
#include "kernels/json.hpp"
#include "kernels/params.hpp"

namespace lamina {
namespace {

// A Markdown table whose columns line up; the first column is text, the others numbers.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::vector<size_t> widths(rows_.front().size(), 3);
    for (const auto& row : rows_) {
      for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
    }
    std::string out;
    for (size_t r = 0; r < rows_.size(); ++r) {
      out += "|";
      for (size_t i = 0; i < widths.size(); ++i) {
        const std::string pad(widths[i] - display_width(rows_[r][i]), ' ');
        out += i == 0 ? " " + rows_[r][i] + pad + " |" : " " + pad + rows_[r][i] + " |";
      }
      out += "\n";
      if (r > 0) continue;
      out += "|";
      for (size_t i = 0; i < widths.size(); ++i)
        out += i == 0 ? ":" + std::string(widths[i] + 1, '-') + "|" : std::string(widths[i] + 1, '-') + ":|";
      out += "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::vector<double> times_of(const HistorySeries& series) {
  std::vector<double> times;
  for (const HistoryPoint& point : series.points) times.push_back(point.latency_us_p50);
  return times;
}

std::string percent(double ratio) {
  return fmt::format("{:+.1f} %", 100 * (ratio - 1));
}

std::string change_text(const ChangePoint& change) {
  return fmt::format("{} [{}, {}]", percent(change.ratio), percent(change.low), percent(change.high));
}

// How many points came before what was searched.
std::string limit_text(size_t points) {
  if (points <= kMostPoints) return "";
  return fmt::format("Only the last {} of {} points were searched for changes.\n\n", kMostPoints, points);
}

std::string overview(const std::vector<HistorySeries>& list) {
  std::string out;
  std::vector<std::string> machines;
  for (const HistorySeries& series : list) {
    if (std::find(machines.begin(), machines.end(), series.machine) == machines.end())
      machines.push_back(series.machine);
  }
  for (const std::string& machine : machines) {
    Table table(
        {"case", "points", "last p50 µs", "last commit", "changes", "latest change [95 % CI]", "at commit"});
    for (const HistorySeries& series : list) {
      if (series.machine != machine) continue;
      const std::vector<ChangePoint> changes = change_points(times_of(series));
      const HistoryPoint& last = series.points.back();
      table.add({escaped(series.case_name), fmt::format("{}", series.points.size()),
                 significant(last.latency_us_p50, 4), escaped(last.commit), fmt::format("{}", changes.size()),
                 changes.empty() ? "" : change_text(changes.back()),
                 changes.empty() ? "" : escaped(series.points[changes.back().index].commit)});
    }
    out += fmt::format("{}### {}\n\n{}", out.empty() ? "" : "\n", escaped(machine), table.text());
  }
  return out.empty() ? "No points.\n" : out;
}

std::string past(const HistorySeries& series) {
  const std::vector<double> times = times_of(series);
  const std::vector<ChangePoint> changes = change_points(times);
  Table table({"commit", "date", "p50 µs", "of its stretch", "change [95 % CI]", "p"});
  size_t begin = 0, next = 0;
  double mean = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    const bool changed = next < changes.size() && changes[next].index == i;
    if (i == 0 || changed) {
      begin = i;
      if (changed) ++next;
      mean = geometric_mean(times, begin, next < changes.size() ? changes[next].index : times.size());
    }
    const HistoryPoint& point = series.points[i];
    table.add({escaped(point.commit), escaped(point.date), significant(times[i], 4), percent(times[i] / mean),
               changed ? change_text(changes[next - 1]) : "",
               changed ? fmt::format("{:.2g}", changes[next - 1].p) : ""});
  }
  std::string summary = changes.empty() ? "No change point.\n" : "";
  for (const ChangePoint& change : changes)
    summary += fmt::format("Changed by {} at {}.\n", change_text(change),
                           escaped(series.points[change.index].commit));
  return fmt::format("### {} on {}\n\n{}{}\n{}", escaped(series.case_name), escaped(series.machine),
                     limit_text(times.size()), table.text(), summary);
}

std::string quoted_list(const std::set<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "`" : ", `") + name + "`";
  return out;
}

// `found` of these names, with the nearest where there is none.
void require(bool found, const char* option, const std::string& name, const std::set<std::string>& names) {
  if (found) return;
  const std::string nearest = nearest_name(name, {names.begin(), names.end()});
  throw std::runtime_error(fmt::format("{}: expected one of the file's, found `{}`{}", option, name,
                                       nearest.empty() ? "" : fmt::format("; did you mean `{}`?", nearest)));
}

}  // namespace

int history_show(const HistoryOptions& options) {
  const HistoryFile file = read_history(options.file);
  if (file.torn_bytes > 0)
    fmt::print(stderr, "lamina: warning: {}: skipped\n", printable(torn_text(options.file, file.torn_bytes)));
  std::vector<HistorySeries> list = series_of(file.points);
  std::set<std::string> machines, cases;
  for (const HistorySeries& series : list) machines.insert(series.machine);
  if (!options.machine.empty()) {
    require(machines.contains(options.machine), "--machine", options.machine, machines);
    std::erase_if(list, [&](const HistorySeries& series) { return series.machine != options.machine; });
  }
  for (const HistorySeries& series : list) cases.insert(series.case_name);
  std::string text;
  if (options.case_name.empty()) {
    text = overview(list);
  } else {
    require(cases.contains(options.case_name), "--case", options.case_name, cases);
    std::erase_if(list, [&](const HistorySeries& series) { return series.case_name != options.case_name; });
    for (const HistorySeries& series : list) text += (text.empty() ? "" : "\n") + past(series);
  }
  if (!options.svg_file.empty()) {
    if (list.size() != 1) {
      throw std::runtime_error(
          fmt::format("--svg: expected one machine, found {}: name one by --machine", quoted_list(machines)));
    }
    try {
      write_file_atomically(options.svg_file, history_svg(list.front()));
    } catch (const std::runtime_error& error) {
      fmt::print(stderr, "lamina: {}\n", printable(error.what()));
      return kExitFailed;
    }
  }
  return print_out(text) ? kExitOk : kExitFailed;
}

}  // namespace lamina

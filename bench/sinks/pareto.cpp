// Which schemes are worth their error: of the rows that compare, those that no other beats in error and size,
// or in error and time.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "bench/sinks/sink.hpp"
#include "bench/sinks/tables.hpp"
#include "bench/sinks/trackers.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

// To the two digits that are shown, so that kernels of one scheme, which differ by rounding, compare by time.
double shown_error(const Record& record) {
  const double nmse = record.number("quality_nmse");
  if (!(nmse > 0)) return nmse;
  const double unit = std::pow(10.0, std::floor(std::log10(nmse)) - 1);
  return std::round(nmse / unit) * unit;
}

// Whether `a` is no worse than `b` in error and in `cost`, and better in one of them, or else in time. No row
// beats another that, by others, beats it.
bool beats(const Record& a, const Record& b, const char* cost) {
  const double a_error = shown_error(a), b_error = shown_error(b);
  const double a_cost = a.number(cost), b_cost = b.number(cost);
  if (a_error > b_error || a_cost > b_cost) return false;
  if (a_error < b_error || a_cost < b_cost) return true;
  return a.number("latency_us_p50") < b.number("latency_us_p50");
}

bool compares(const Record& record) {
  return has_time(record) && std::isfinite(record.number("quality_nmse")) &&
         std::isfinite(record.number("weight_bytes"));
}

// What rows must share to be an alternative to each other.
std::string place(const Row& row) {
  const Record& record = *row.record;
  const double asked = record.number("quality_tokens");
  const double quality_tokens = std::isfinite(asked) ? asked : kQualityTokens;
  return fmt::format("{} {} {} {} {} {} {} {} {}", row.run->machine, record.text("device"),
                     record.text("cache"), record.text("shard"), record.integer("nodes"),
                     record.integer("ranks"), record.integer("threads"), record.text("weights_source"),
                     quality_tokens);
}

// The rows on a front, smallest weights first; `notes` says on which.
std::vector<Row> fronts(const std::vector<Row>& rows) {
  std::map<std::string, std::vector<Row>> places;
  for (const Row& row : rows) places[place(row)].push_back(row);
  std::vector<Row> kept;
  for (auto& [name, alike] : places) {
    std::stable_sort(alike.begin(), alike.end(), [](const Row& a, const Row& b) {
      return a.record->number("weight_bytes") < b.record->number("weight_bytes");
    });
    for (Row row : alike) {
      row.notes.clear();
      for (const auto& [cost, front] :
           {std::pair("weight_bytes", "size"), std::pair("latency_us_p50", "time")}) {
        const bool beaten = std::any_of(alike.begin(), alike.end(), [&, key = cost](const Row& other) {
          return beats(*other.record, *row.record, key);
        });
        if (!beaten) row.notes += (row.notes.empty() ? "" : ", ") + std::string(front);
      }
      if (!row.notes.empty()) kept.push_back(row);
    }
  }
  return kept;
}

std::vector<Column> columns() {
  static const std::set<std::string> shown = {
      "run",   "machine", "device",        "cache", "communicator",     "weights",  "scheme",
      "shard", "kernel",  "ranks×threads", "NMSE",  "p50 µs [95 % CI]", "weight MB"};
  std::vector<Column> list;
  for (const Column& column : forward_columns())
    if (shown.contains(column.header)) list.push_back(column);
  list.push_back({"best for its", false, [](const Row& row) { return row.notes; }});
  return list;
}

std::string render(const std::vector<RunRows>& runs) {
  std::vector<std::string> warnings;
  std::vector<TableGroup> groups = group_rows(runs, warnings);
  int64_t beaten = 0, others = 0;
  for (TableGroup& group : groups) {
    const auto first_other = std::stable_partition(group.rows.begin(), group.rows.end(),
                                                   [](const Row& row) { return compares(*row.record); });
    others += group.rows.end() - first_other;
    group.rows.erase(first_other, group.rows.end());
    const auto before = static_cast<int64_t>(group.rows.size());
    group.rows = fronts(group.rows);
    beaten += before - static_cast<int64_t>(group.rows.size());
  }
  std::erase_if(groups, [](const TableGroup& group) { return group.rows.empty(); });
  if (groups.empty()) return "No rows with an error, a size and a time.\n";
  return tables_text(groups, columns(), runs, "All rows") +
         fmt::format(
             "\nLeft out: {} rows that others beat in error and size, and in error and time; {} without "
             "all of these.\n",
             beaten, others);
}

}  // namespace

Sink pareto_sink() {
  return {"pareto", "Markdown: the schemes that no other beats in error and size, or in error and time",
          render};
}

}  // namespace lamina

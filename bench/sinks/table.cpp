// Markdown that also reads well on a terminal: one table per layer and tokens, so that schemes compare at a
// glance.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "bench/sinks/sink.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

constexpr const char* kCommunication = "comm KB";
constexpr const char* kCommunicator = "communicator";

struct Row {
  const RunRows* run;
  const Record* record;
  std::string notes;  // numbers of its warnings
};

struct Column {
  std::string header;
  bool right = true;
  std::function<std::string(const Row&)> cell;
};

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string number(const Record& record, const char* key, int digits, double scale = 1) {
  const double value = record.number(key);
  return std::isfinite(value) ? significant(value * scale, digits) : "";
}

std::string with_unit(std::string text, const char* unit) {
  return text.empty() ? text : text + unit;
}

std::string count(const Record& record, const char* key) {
  const double value = record.number(key);
  return std::isfinite(value) ? fmt::format("{:.0f}", value) : "";
}

std::string size_of_launch(const Record& record) {
  const std::string ranks = count(record, "ranks"), threads = count(record, "threads");
  return ranks.empty() || threads.empty() ? ranks + threads : ranks + "×" + threads;
}

// The interval with as many decimals as its median.
std::string latency(const Record& record) {
  const double p50 = record.number("latency_us_p50");
  if (!std::isfinite(p50)) return "";
  const std::string text = significant(p50, 4);
  const double low = record.number("latency_us_ci_low"), high = record.number("latency_us_ci_high");
  if (!std::isfinite(low) || !std::isfinite(high)) return text;
  const size_t point = text.find('.');
  const size_t decimals = point == std::string::npos ? 0 : text.size() - point - 1;
  return fmt::format("{} [{:.{}f}, {:.{}f}]", text, low, decimals, high, decimals);
}

std::string limit(const Record& record) {
  const double fraction = record.number("limit_fraction");
  const std::string kind = escaped(record.text("limit_kind"));
  return std::isfinite(fraction) ? fmt::format("{:.0f} % {}", 100 * fraction, kind) : "";
}

// How much of its tolerance the worst element used.
std::string check(const Record& record) {
  const auto* passed = std::get_if<bool>(&record.get("check_passed"));
  if (passed == nullptr) return "";
  const double error = record.number("check_error"), tolerance = record.number("check_tolerance");
  const std::string verdict = *passed ? "ok" : "FAILED";
  if (error == 0) return verdict + " 0";
  const double ratio = error / tolerance;
  return std::isfinite(ratio) ? fmt::format("{} {:.2g}", verdict, ratio) : verdict;
}

std::string outcome(const Record& record) {
  const std::string status = record.text("status"), reason = record.text("reason");
  if (status == "ok") return "";
  return escaped(reason.empty() ? status : status + ": " + reason);
}

Column text_column(std::string header, const char* key) {
  return {std::move(header), false, [key](const Row& row) { return escaped(row.record->text(key)); }};
}

Column number_column(std::string header, const char* key, int digits, double scale = 1) {
  return {std::move(header), true, [=](const Row& row) { return number(*row.record, key, digits, scale); }};
}

const std::vector<Column>& columns() {
  static const std::vector<Column> list = {
      {"run", false, [](const Row& row) { return escaped(row.run->name); }},
      {"machine", false, [](const Row& row) { return escaped(row.run->machine); }},
      text_column("device", "device"),
      text_column("cache", "cache"),
      text_column(kCommunicator, "communicator"),
      text_column("weights", "weights_source"),
      text_column("scheme", "scheme"),
      text_column("shard", "shard"),
      {"ranks×threads", true, [](const Row& row) { return size_of_launch(*row.record); }},
      text_column("kernel", "kernel"),
      {"p50 µs [95 % CI]", true, [](const Row& row) { return latency(*row.record); }},
      number_column("tokens/s", "tokens_per_s", 4),
      number_column("weight GB/s", "weight_gb_per_s", 3),
      {"speedup", true,
       [](const Row& row) { return with_unit(number(*row.record, "speedup_vs_dense", 3), "×"); }},
      {"limit", true, [](const Row& row) { return limit(*row.record); }},
      number_column("weight MB", "weight_bytes", 3, 1e-6),
      number_column(kCommunication, "comm_bytes", 3, 1e-3),
      {"NMSE", true,
       [](const Row& row) {
         const double nmse = row.record->number("quality_nmse");
         return !std::isfinite(nmse) ? "" : nmse == 0 ? "0" : fmt::format("{:.1e}", nmse);
       }},
      {"check", true, [](const Row& row) { return check(*row.record); }},
      number_column("busbw GB/s", "busbw_gb_per_s", 3),
      {"notes", true, [](const Row& row) { return row.notes; }},
      {"not ok", false, [](const Row& row) { return outcome(*row.record); }},
  };
  return list;
}

// Said once above the tables, unless rows differ in it.
bool is_common_fact(const std::string& header) {
  static const std::set<std::string> facts = {"run", "machine", "device", "cache", "communicator", "weights"};
  return facts.contains(header);
}

// The heading of the table that a record belongs to: "llama-3-8b o_proj, K×N 4096×4096, 1 token".
std::string heading(const Record& record) {
  const std::string k = count(record, "in_features"), n = count(record, "out_features");
  const std::string middle = count(record, "intermediate_features");
  std::string layer = record.text("layer");
  // A layer given by its sizes is named after them, and they follow anyway.
  if (layer.empty() || layer == k + "x" + n) layer = record.text("workload");
  const std::string model = record.text("model");
  std::string text = model + (model.empty() ? "" : " ") + layer;
  if (!k.empty() && !n.empty())
    text += middle.empty() ? ", K×N " + k + "×" + n : ", K×I×N " + k + "×" + middle + "×" + n;
  const std::string tokens = count(record, "tokens");
  if (!tokens.empty()) text += ", " + tokens + (tokens == "1" ? " token" : " tokens");
  return escaped(text);
}

// Rows that compare stand together, the dense baseline first.
auto order(const Row& row) {
  static const std::map<std::string, int> shards = {
      {"none", 0}, {"column", 1}, {"row", 2}, {"column-row", 3}};
  const Record& record = *row.record;
  const auto shard = shards.find(record.text("shard"));
  return std::tuple(shard == shards.end() ? 4 : shard->second, record.integer("nodes"),
                    record.integer("ranks"), record.integer("threads"), record.text("device"),
                    !record.text("scheme").starts_with("dense"));
}

struct Group {
  std::string heading;
  std::vector<Row> rows;
};

// Groups in the order of their first row. Warnings are numbered in the order they come.
std::vector<Group> group_rows(const std::vector<RunRows>& runs, std::vector<std::string>& warnings) {
  std::vector<Group> groups;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      Row row{&run, &record, ""};
      if (const auto* list = std::get_if<std::vector<std::string>>(&record.get("warnings"))) {
        for (const std::string& warning : *list) {
          auto found = std::find(warnings.begin(), warnings.end(), warning);
          if (found == warnings.end()) found = warnings.insert(warnings.end(), warning);
          row.notes += fmt::format("{}{}", row.notes.empty() ? "" : " ", found - warnings.begin() + 1);
        }
      }
      const std::string title = heading(record);
      auto group =
          std::find_if(groups.begin(), groups.end(), [&](const Group& g) { return g.heading == title; });
      if (group == groups.end()) group = groups.insert(groups.end(), Group{title, {}});
      group->rows.push_back(std::move(row));
    }
  }
  for (Group& group : groups) {
    std::stable_sort(group.rows.begin(), group.rows.end(),
                     [](const Row& a, const Row& b) { return order(a) < order(b); });
  }
  return groups;
}

// Whether the same case of one machine comes from two runs, so that only the run's name tells its rows apart.
bool runs_collide(const std::vector<RunRows>& runs) {
  std::map<std::pair<std::string, std::string>, const RunRows*> seen;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      const auto [place, added] = seen.emplace(std::pair(run.machine, record.text("case")), &run);
      if (!added && place->second != &run) return true;
    }
  }
  return false;
}

std::string padded(const std::string& text, size_t width, bool right) {
  const std::string space(width - std::min(width, display_width(text)), ' ');
  return right ? space + text : text + space;
}

// Whether a column has nothing to say. Without a collective no row moves a byte.
bool is_empty(const Column& column, std::set<std::string> values) {
  if (column.header == kCommunication) values.erase("0");
  values.erase("");
  return values.empty();
}

// Which columns to show, decided over all tables so that they line up.
struct Layout {
  std::vector<const Column*> columns;
  std::vector<size_t> widths;
  std::string common;  // what all rows share, as text
};

Layout lay_out(const std::vector<Group>& groups, const std::vector<RunRows>& runs) {
  Layout layout;
  for (const Column& column : columns()) {
    std::set<std::string> values;
    size_t width = display_width(column.header);
    for (const Group& group : groups) {
      for (const Row& row : group.rows) {
        const std::string cell = column.cell(row);
        width = std::max(width, display_width(cell));
        values.insert(cell);
      }
    }
    if (is_empty(column, values)) continue;
    // A case on one rank has nobody to talk to: its `self` tells nothing beside the others' way.
    if (column.header == kCommunicator && values.size() > 1) values.erase("self");
    if (is_common_fact(column.header)) {
      const bool is_run = column.header == "run";
      if (!is_run && values.size() == 1) {
        layout.common += (layout.common.empty() ? "" : ", ") + column.header + " " + *values.begin();
      }
      if (is_run ? !runs_collide(runs) : values.size() == 1) continue;
    }
    layout.columns.push_back(&column);
    layout.widths.push_back(width);
  }
  return layout;
}

std::string group_text(const Group& group, const Layout& layout) {
  std::string header = "|", rule = "|", rows;
  for (size_t i = 0; i < layout.columns.size(); ++i) {
    const Column& column = *layout.columns[i];
    header += " " + padded(column.header, layout.widths[i], column.right) + " |";
    rule += (column.right ? "-" : ":") + std::string(layout.widths[i], '-') + (column.right ? ":|" : "-|");
  }
  for (const Row& row : group.rows) {
    rows += "|";
    for (size_t i = 0; i < layout.columns.size(); ++i) {
      const Column& column = *layout.columns[i];
      rows += " " + padded(column.cell(row), layout.widths[i], column.right) + " |";
    }
    rows += "\n";
  }
  return "### " + group.heading + "\n\n" + header + "\n" + rule + "\n" + rows;
}

std::string render(const std::vector<RunRows>& runs) {
  std::vector<std::string> warnings;
  const std::vector<Group> groups = group_rows(runs, warnings);
  if (groups.empty()) return "No rows.\n";
  const Layout layout = lay_out(groups, runs);
  std::string out = layout.common.empty() ? "" : "All rows: " + layout.common + ".\n\n";
  for (const Group& group : groups)
    out += (&group == &groups.front() ? "" : "\n") + group_text(group, layout);
  if (!warnings.empty()) out += "\nNotes:\n\n";
  for (size_t i = 0; i < warnings.size(); ++i) out += fmt::format("{}. {}\n", i + 1, escaped(warnings[i]));
  return out;
}

}  // namespace

Sink table_sink() {
  return {"table", "Markdown, one table per layer and tokens", render};
}

}  // namespace lamina

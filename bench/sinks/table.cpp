// Markdown that also reads well on a terminal: one table per layer and tokens, so that schemes compare at a
// glance.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "bench/sinks/sink.hpp"
#include "bench/sinks/tables.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

// Said once above the tables, unless rows differ in it.
bool is_common_fact(const std::string& header) {
  static const std::set<std::string> facts = {"run",          "machine", "device",         "cache",
                                              "communicator", "weights", "spectrum decay", "layout"};
  return facts.contains(header);
}

}  // namespace

std::string layer_heading(const Record& record) {
  const std::string k = count(record, "in_features"), n = count(record, "out_features");
  const std::string middle = count(record, "intermediate_features");
  std::string layer = record.text("layer");
  const std::string workload = record.text("workload");
  const bool weak = record.text("svd_scaling") == "weak";
  // A layer given by its sizes is named after them, and they follow anyway.
  if (layer.empty() || layer == k + "x" + n || (weak && layer.find('x') != std::string::npos))
    layer = workload;
  const std::string model = record.text("model");
  std::string text =
      model + (model.empty() ? "" : " ") + layer + (workload == "svd" && layer != workload ? " svd" : "");
  // One table for a matrix that grows with its ranks.
  if (weak)
    return escaped(
        text + fmt::format(", K×N {}×({} a rank)", k,
                           record.integer("out_features") / std::max<int64_t>(record.integer("ranks"), 1)));
  if (!k.empty() && !n.empty())
    text += middle.empty() ? ", K×N " + k + "×" + n : ", K×I×N " + k + "×" + middle + "×" + n;
  return escaped(text);
}

namespace {

// The heading of the table that a record belongs to: "llama-3-8b o_proj, K×N 4096×4096, 1 token".
std::string heading(const Record& record) {
  if (record.text("workload") == "collective") {
    const std::string ranks = count(record, "ranks");
    return escaped(fmt::format("{}, {}, {} {}", record.text("collective"), record.text("dtype"), ranks,
                               ranks == "1" ? "rank" : "ranks"));
  }
  const std::string tokens = count(record, "tokens");
  return layer_heading(record) +
         (tokens.empty() ? "" : ", " + tokens + (tokens == "1" ? " token" : " tokens"));
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

// Of factorisations: by what was asked for, the peers first, each over its ranks.
auto svd_order(const Row& row) {
  static const std::map<std::string, int> rules = {{"rank", 0}, {"ratio", 1}, {"energy", 2}, {"error", 3}};
  static const std::map<std::string, int> methods = {
      {"lapack", 0}, {"scalapack", 1}, {"scalapack-f64", 2}, {"gram", 3}, {"randomized", 4}};
  const Record& record = *row.record;
  const std::string rule = record.text("svd_rule");
  const size_t space = std::min(rule.find(' '), rule.size());
  const auto kind = rules.find(rule.substr(0, space));
  const auto method = methods.find(record.text("svd_method"));
  return std::tuple(kind == rules.end() ? 4 : kind->second, std::atof(rule.c_str() + space),
                    method == methods.end() ? 5 : method->second, record.text("svd_layout"),
                    record.integer("ranks"), record.integer("threads"));
}

// Of collectives: by size, who moves it beside one another.
auto collective_order(const Row& row) {
  const Record& record = *row.record;
  return std::tuple(record.integer("message_bytes"), record.text("payload"), record.text("communicator"),
                    record.flag("in_place"));
}

bool is_svd(const Record& record) {
  return record.text("workload") == "svd";
}

bool is_collective(const Record& record) {
  return record.text("workload") == "collective";
}

}  // namespace

std::vector<TableGroup> group_rows(const std::vector<RunRows>& runs, std::vector<std::string>& warnings) {
  std::vector<TableGroup> groups;
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
          std::find_if(groups.begin(), groups.end(), [&](const TableGroup& g) { return g.heading == title; });
      if (group == groups.end()) group = groups.insert(groups.end(), TableGroup{title, {}});
      group->rows.push_back(std::move(row));
    }
  }
  for (TableGroup& group : groups) {
    std::stable_sort(group.rows.begin(), group.rows.end(), [](const Row& a, const Row& b) {
      const Record& record = *a.record;  // of a workload as all of its group
      return is_svd(record)          ? svd_order(a) < svd_order(b)
             : is_collective(record) ? collective_order(a) < collective_order(b)
                                     : order(a) < order(b);
    });
  }
  return groups;
}

namespace {

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
struct TableLayout {
  std::vector<const Column*> columns;
  std::vector<size_t> widths;
  std::string common;  // what all rows share, as text
};

TableLayout lay_out(const std::vector<Column>& columns, const std::vector<TableGroup>& groups,
                    const std::vector<RunRows>& runs) {
  TableLayout layout;
  for (const Column& column : columns) {
    std::set<std::string> values;
    size_t width = display_width(column.header);
    for (const TableGroup& group : groups) {
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

std::string group_text(const TableGroup& group, const TableLayout& layout) {
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

}  // namespace

std::string tables_text(const std::vector<TableGroup>& groups, const std::vector<Column>& columns,
                        const std::vector<RunRows>& runs, const std::string& what) {
  const TableLayout layout = lay_out(columns, groups, runs);
  std::string out;
  if (!layout.common.empty()) out += fmt::format("{}: {}.\n\n", what, layout.common);
  for (const TableGroup& group : groups)
    out += (&group == &groups.front() ? "" : "\n") + group_text(group, layout);
  return out;
}

namespace {

std::string render(const std::vector<RunRows>& runs) {
  std::vector<std::string> warnings;
  std::vector<TableGroup> groups = group_rows(runs, warnings);
  if (groups.empty()) return "No rows.\n";
  const auto of = [](const TableGroup& group) -> const Record& { return *group.rows.front().record; };
  std::vector<TableGroup> forwards, svds, collectives;
  for (const TableGroup& group : groups)
    (is_svd(of(group)) ? svds : is_collective(of(group)) ? collectives : forwards).push_back(group);
  std::string out;
  const auto add = [&](const std::vector<TableGroup>& part, const std::vector<Column>& columns,
                       const std::string& what) {
    if (part.empty()) return;
    if (!out.empty()) out += "\n";
    out += tables_text(part, columns, runs, part.size() == groups.size() ? "All rows" : what);
  };
  add(forwards, forward_columns(), "Layers");
  add(svds, svd_columns(), "Factorisations");
  add(collectives, collective_columns(), "Collectives");
  if (!warnings.empty()) out += "\nNotes:\n\n";
  for (size_t i = 0; i < warnings.size(); ++i) out += fmt::format("{}. {}\n", i + 1, escaped(warnings[i]));
  return out;
}

}  // namespace

Sink table_sink() {
  return {"table", "Markdown, one table per layer and tokens", render};
}

}  // namespace lamina

// What ranks win: for each number of tokens and of ranks the scheme and shard that is fastest, and for each
// scheme and shard how its time falls with the ranks.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <tuple>

#include "bench/sinks/columns.hpp"
#include "bench/sinks/sink.hpp"
#include "bench/sinks/tables.hpp"
#include "bench/sinks/trackers.hpp"
#include "bench/text.hpp"

namespace lamina {
namespace {

double time_of(const Record& record) {
  return record.number("latency_us_p50");
}

// What rows must share to be an alternative to each other, whatever their ranks, schemes and shards.
std::string place(const Row& row) {
  const Record& record = *row.record;
  return fmt::format("{} {} {} {}", row.run->machine, record.text("device"), record.text("cache"),
                     record.text("weights_source"));
}

using Key = std::tuple<std::string, int64_t, int64_t>;  // place, tokens, ranks
Key key_of(const Row& row, int64_t ranks) {
  return {place(row), row.record->integer("tokens"), ranks};
}

// "int4-g128 row".
std::string way(const Record& record) {
  return record.text("scheme") + " " + shard_of(record);
}

// The rows of one layer, and what they are held against.
struct Layer {
  std::string heading;
  std::vector<Row> rows;  // those with a time

  std::map<Key, std::vector<const Row*>> fastest_first() const {
    std::map<Key, std::vector<const Row*>> sorted;
    for (const Row& row : rows) sorted[key_of(row, row.record->integer("ranks"))].push_back(&row);
    for (auto& [key, alike] : sorted)
      std::stable_sort(alike.begin(), alike.end(),
                       [](const Row* a, const Row* b) { return time_of(*a->record) < time_of(*b->record); });
    return sorted;
  }
  // The same scheme's on one rank; null where there is none.
  const Record* alone(const Row& row) const {
    const Record* fastest = nullptr;
    for (const Row& other : rows) {
      if (key_of(other, other.record->integer("ranks")) != key_of(row, 1) ||
          other.record->text("scheme") != row.record->text("scheme"))
        continue;
      if (fastest == nullptr || time_of(*other.record) < time_of(*fastest)) fastest = other.record;
    }
    return fastest;
  }
};

std::string share(double one_us, const Record& record) {
  const double efficiency = one_us / (time_of(record) * static_cast<double>(record.integer("ranks")));
  return std::isfinite(efficiency) ? fmt::format("{:.0f} %", 100 * efficiency) : "";
}

std::string times(double ratio) {
  return std::isfinite(ratio) ? significant(ratio, 3) + "×" : "";
}

std::vector<Column> chosen(std::initializer_list<std::string_view> headers) {
  std::vector<Column> list;
  for (const std::string_view header : headers)
    for (const Column& column : forward_columns())
      if (column.header == header) list.push_back(column);
  return list;
}

// What rows differ in that are not alternatives, and what a launch of so many ranks is.
std::vector<Column> first_columns() {
  std::vector<Column> list = chosen({"machine", "device", "cache", "weights"});
  list.push_back({"tokens", true, [](const Row& row) { return count(*row.record, "tokens"); }});
  return list;
}

std::string winners(const std::vector<Layer>& layers, const std::vector<RunRows>& runs) {
  std::map<const Record*, std::array<std::string, 2>> said;  // runner-up, efficiency
  std::vector<TableGroup> groups;
  for (const Layer& layer : layers) {
    TableGroup group{layer.heading, {}};
    const auto sorted = layer.fastest_first();
    for (const auto& [key, rows] : sorted) {
      const Record& best = *rows.front()->record;
      std::string next;
      for (const Row* row : rows) {
        if (way(*row->record) == way(best)) continue;
        next = fmt::format("{}, {}", way(*row->record), times(time_of(*row->record) / time_of(best)));
        break;
      }
      const auto one = sorted.find({std::get<0>(key), std::get<1>(key), 1});
      const double one_us = one == sorted.end() ? std::nan("") : time_of(*one->second.front()->record);
      said[&best] = {escaped(next), best.integer("ranks") > 1 ? share(one_us, best) : ""};
      group.rows.push_back(*rows.front());
    }
    groups.push_back(std::move(group));
  }
  std::vector<Column> columns = first_columns();
  for (Column& column : chosen({"ranks×threads", "scheme", "shard", "kernel", "p50 µs [95 % CI]", "NMSE"}))
    columns.push_back(std::move(column));
  columns.push_back({"next, slower", false, [&](const Row& row) { return said[row.record][0]; }});
  columns.push_back({"efficiency", true, [&](const Row& row) { return said[row.record][1]; }});
  return "## Fastest\n\nEfficiency: the time of the fastest on one rank, over this one's and the ranks.\n\n" +
         tables_text(groups, columns, runs, "All rows");
}

std::string over_ranks(const std::vector<Layer>& layers, const std::vector<RunRows>& runs) {
  std::map<const Record*, const Record*> ones;
  std::vector<TableGroup> groups;
  for (const Layer& layer : layers) {
    TableGroup group{layer.heading, {}};
    for (const Row& row : layer.rows) {
      if (row.record->integer("ranks") < 2) continue;
      if (const Record* one = layer.alone(row); one != nullptr) {
        ones[row.record] = one;
        group.rows.push_back(row);
      }
    }
    std::stable_sort(group.rows.begin(), group.rows.end(), [](const Row& a, const Row& b) {
      const auto order = [](const Record& record) {
        return std::tuple(record.integer("tokens"), way(record), record.integer("ranks"));
      };
      return order(*a.record) < order(*b.record);
    });
    if (!group.rows.empty()) groups.push_back(std::move(group));
  }
  if (groups.empty()) return "";
  std::vector<Column> columns = first_columns();
  for (Column& column : chosen({"communicator", "scheme", "shard", "ranks×threads", "p50 µs [95 % CI]"}))
    columns.push_back(std::move(column));
  columns.push_back(
      {"one rank µs", true, [&](const Row& row) { return significant(time_of(*ones[row.record]), 4); }});
  columns.push_back({"faster", true, [&](const Row& row) {
                       return times(time_of(*ones[row.record]) / time_of(*row.record));
                     }});
  columns.push_back(
      {"efficiency", true, [&](const Row& row) { return share(time_of(*ones[row.record]), *row.record); }});
  for (Column& column : chosen({"exposed µs"})) columns.push_back(std::move(column));
  return "\n## Over ranks\n\nEach scheme against itself on one rank.\n\n" +
         tables_text(groups, columns, runs, "All rows");
}

std::string render(const std::vector<RunRows>& runs) {
  std::vector<Layer> layers;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      const std::string workload = record.text("workload");
      if ((workload != "layer" && workload != "mlp") || !has_time(record)) continue;
      const std::string heading = layer_heading(record);
      auto layer = std::find_if(layers.begin(), layers.end(),
                                [&](const Layer& each) { return each.heading == heading; });
      if (layer == layers.end()) layer = layers.insert(layers.end(), Layer{heading, {}});
      layer->rows.push_back({&run, &record, ""});
    }
  }
  if (layers.empty()) return "No rows of layers with a time.\n";
  return winners(layers, runs) + over_ranks(layers, runs);
}

}  // namespace

Sink scaling_sink() {
  return {"scaling",
          "Markdown: the fastest scheme and shard for each number of tokens, and efficiency over ranks",
          render};
}

}  // namespace lamina

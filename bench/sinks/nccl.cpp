// Collectives in the columns of nccl-tests: out of place and in place side by side, for those who read its
// output.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "bench/sinks/sink.hpp"
#include "distributed/collectives/collective.hpp"

namespace lamina {
namespace {

// What stands in one line: the same call in both forms.
using Key = std::tuple<int64_t, std::string>;  // bytes, type
struct Line {
  const Record* out_of_place = nullptr;
  const Record* in_place = nullptr;
};

// A section of lines: nccl-tests' output of one launch of one of its programs.
struct Section {
  std::string title;
  std::map<Key, Line> lines;
};

std::string type_of(const Record& record) {
  const std::string dtype = record.text("dtype");
  return dtype == "f32" ? "float" : dtype == "f16" ? "half" : dtype == "bf16" ? "bfloat16" : dtype;
}

// As nccl-tests counts elements: a rank's part, where the buffer is in parts.
int64_t count_of(const Record& record, const Collective* collective) {
  const std::string dtype = record.text("dtype");
  const int64_t elements = record.integer("message_bytes") / (dtype == "f32" ? 4 : dtype == "int8" ? 1 : 2);
  const int ranks = static_cast<int>(std::max<int64_t>(record.integer("ranks"), 1));
  return collective == nullptr ? elements : collective->sizes(elements, ranks).count;
}

std::string form(const Record* record) {
  if (record == nullptr) return fmt::format("{:>8} {:>7} {:>7} {:>6}", "N/A", "N/A", "N/A", "N/A");
  const auto rate = [&](const char* key) {
    const double value = record->number(key);
    return std::isfinite(value) ? value : 0.0;
  };
  return fmt::format("{:>8.2f} {:>7.2f} {:>7.2f} {:>6}", record->number("latency_us_p50"),
                     rate("algbw_gb_per_s"), rate("busbw_gb_per_s"), record->integer("wrong_elements"));
}

std::string render(const std::vector<RunRows>& runs) {
  std::vector<Section> sections;
  int64_t others = 0, not_ok = 0;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      if (record.text("workload") != "collective") {
        ++others;
        continue;
      }
      if (record.text("status") != "ok") {
        ++not_ok;
        continue;
      }
      const auto* graph = std::get_if<bool>(&record.get("graph"));
      const std::string payload = record.text("payload");
      std::string title =
          fmt::format("{}: {} ranks, {} {}", record.text("collective"), record.integer("ranks"),
                      record.text("device"), record.text("communicator"));
      if (!payload.empty())
        title += fmt::format(", payload {} b{}{}", payload, record.integer("payload_block"),
                             record.flag("error_feedback") ? " with error feedback" : "");
      if (graph != nullptr) title += *graph ? ", graph" : ", no graph";
      if (runs.size() > 1) title += ", " + run.name;
      auto section =
          std::find_if(sections.begin(), sections.end(), [&](const Section& s) { return s.title == title; });
      if (section == sections.end()) section = sections.insert(sections.end(), Section{title, {}});
      Line& line = section->lines[{record.integer("message_bytes"), type_of(record)}];
      (record.flag("in_place") ? line.in_place : line.out_of_place) = &record;
    }
  }
  std::string out;
  for (const Section& section : sections) {
    out += fmt::format("{}# {}\n#\n", out.empty() ? "" : "\n", section.title);
    out += fmt::format("# {:>12} {:>13} {:>9} {:>7} {:>6}  {:^31}  {:^31}\n", "", "", "", "", "",
                       "out-of-place", "in-place");
    const std::string head = fmt::format("{:>8} {:>7} {:>7} {:>6}", "time", "algbw", "busbw", "#wrong");
    out += fmt::format("# {:>12} {:>13} {:>9} {:>7} {:>6}  {}  {}\n", "size", "count", "type", "redop",
                       "root", head, head);
    const std::string unit = fmt::format("{:>8} {:>7} {:>7} {:>6}", "(us)", "(GB/s)", "(GB/s)", "");
    out += fmt::format("# {:>12} {:>13} {:>9} {:>7} {:>6}  {}  {}\n", "(B)", "(elements)", "", "", "", unit,
                       unit);
    double busbw = 0;
    int count = 0;
    for (const auto& [key, line] : section.lines) {
      const Record& one = line.out_of_place != nullptr ? *line.out_of_place : *line.in_place;
      const Collective* collective = find_collective(one.text("collective"));  // null: another program's
      const bool sums = collective != nullptr && collective->reduces;
      const bool rooted = collective != nullptr && collective->kind == CollectiveKind::broadcast;
      out += fmt::format("  {:>12} {:>13} {:>9} {:>7} {:>6}  {}  {}\n", std::get<0>(key),
                         count_of(one, collective), std::get<1>(key), sums ? "sum" : "none",
                         rooted ? "0" : "-1", form(line.out_of_place), form(line.in_place));
      for (const Record* form_of : {line.out_of_place, line.in_place}) {
        if (form_of == nullptr || !std::isfinite(form_of->number("busbw_gb_per_s"))) continue;
        busbw += form_of->number("busbw_gb_per_s");
        ++count;
      }
    }
    out += fmt::format("# Avg bus bandwidth    : {:.4g}\n", count > 0 ? busbw / count : 0.0);
  }
  if (out.empty()) out = "# No collectives.\n";
  if (others + not_ok > 0)
    out += fmt::format("# Left out: {} rows of other workloads, {} that are not ok.\n", others, not_ok);
  return out;
}

}  // namespace

Sink nccl_sink() {
  return {"nccl",
          "collectives in nccl-tests' columns, out of place and in place side by side: `ok` rows only",
          render};
}

}  // namespace lamina

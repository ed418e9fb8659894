#include "bench/sinks/trackers.hpp"

#include <cmath>
#include <string_view>

namespace lamina {

bool has_time(const Record& record) {
  return record.text("status") == "ok" && std::isfinite(record.number("latency_us_p50"));
}

double tracked_number(const Record& record, const char* key) {
  if (key == std::string_view("svd_error") && record.text("workload") != "svd") return std::nan("");
  return record.number(key);
}

std::vector<TrackedRow> tracked_rows(const std::vector<RunRows>& runs) {
  std::vector<TrackedRow> rows;
  for (const RunRows& run : runs) {
    for (const Record& record : run.records) {
      if (!has_time(record)) continue;
      rows.push_back({(runs.size() > 1 ? run.name + "/" : "") + record.text("case"), &record});
    }
  }
  return rows;
}

}  // namespace lamina

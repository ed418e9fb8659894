#include "bench/sinks/trackers.hpp"

#include <cmath>

namespace lamina {

bool has_time(const Record& record) {
  return record.text("status") == "ok" && std::isfinite(record.number("latency_us_p50"));
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

// What the exports for trackers share: which rows they take, and by what names.
#pragma once

#include <string>
#include <vector>

#include "bench/sinks/sink.hpp"

namespace lamina {

struct TrackedRow {
  std::string
      name;  // its case; of several runs the run's name before it: a tracker takes equal names for one
  const Record* record;
};

// Whether it is `ok` and has a time.
bool has_time(const Record& record);

// A figure to track; NaN where there is none. The error of factors is one of workload `svd` alone: of layers
// it is a part of what quality_nmse says.
double tracked_number(const Record& record, const char* key);

// The rows that have a time, in order. A tracker cannot tell a failed row from a fast one. They point
// into `runs`.
std::vector<TrackedRow> tracked_rows(const std::vector<RunRows>& runs);

}  // namespace lamina

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

// The rows that have a time, in order. A tracker cannot tell a failed row from a fast one. They point
// into `runs`.
std::vector<TrackedRow> tracked_rows(const std::vector<RunRows>& runs);

}  // namespace lamina

// `lamina history`: what a case took on a machine, commit after commit, and where that changed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/sinks/sink.hpp"

namespace lamina {

// One line of a history: a case's p50 of one launch on one machine. Times are in microseconds.
struct HistoryPoint {
  std::string machine;
  std::string case_name;
  std::string commit;
  std::string date;  // ISO 8601, UTC, when the run began; may be empty
  std::string run_id, launch_id;
  double latency_us_p50 = 0;
  std::optional<double> latency_us_ci_low, latency_us_ci_high;
};

// The points of one case on one machine, in the order in which they were added.
struct HistorySeries {
  std::string machine;
  std::string case_name;
  std::vector<HistoryPoint> points;
};

struct HistoryOptions {
  enum class Action { add, show };
  Action action = Action::show;
  std::string file;
  std::vector<std::string> runs;  // to add
  std::string commit;             // to add; empty: as environment.json has it
  std::string machine;            // to add: in place of environment.json's; to show: only this one
  std::string case_name;          // to show; empty: all, one line each
  std::string svg_file;           // to show
};

// One process alone. Says what it did on stdout, what was wrong on stderr; returns the exit code.
int history(const HistoryOptions& options);

// A line of the file, without its newline. Throws std::runtime_error for a point that parse_point would
// refuse.
std::string to_history_line(const HistoryPoint& point);
// Throws std::runtime_error on anything but one JSON object with the keys of a point, texts in reason and
// times above 0 and of at most 1e15 µs (30 years). Other snake_case keys are let pass: a newer program may
// have added them.
HistoryPoint parse_point(std::string_view line);

struct HistoryFile {
  std::vector<HistoryPoint> points;
  // Bytes behind the last newline that are no point but begin like one, as a killed `history add` leaves
  // them.
  size_t torn_bytes = 0;
  bool lacks_newline = false;  // the last point is whole, its newline was lost
};
// Throws std::runtime_error naming `path` and the line for anything else that is no point.
HistoryFile parse_history(const std::string& path, std::string_view text);
// The same of the file's text, of at most 1 GiB; throws where it cannot be read.
HistoryFile read_history(const std::string& path);

// In order of first appearance.
std::vector<HistorySeries> series_of(const std::vector<HistoryPoint>& points);

// The ok rows of a run as points; `machine` and `commit` in place of what environment.json says where they
// are not empty. Throws std::runtime_error where neither says it.
std::vector<HistoryPoint> points_of(const RunRows& run, const std::string& machine,
                                    const std::string& commit);

// One case's past as an SVG file: points with their intervals, a line for each stretch, change points with
// their commits.
std::string history_svg(const HistorySeries& series);

}  // namespace lamina

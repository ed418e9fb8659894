// The lines of a history: written, read, held to what they must be.
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/history/history.hpp"
#include "bench/sinks/trackers.hpp"
#include "bench/text.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kHistoryVersion = 1;
constexpr size_t kMostTextBytes = 4096;
constexpr double kMostUs = 1e15;
// How every line begins, and a torn one as far as it goes.
constexpr std::string_view kBegin = "{\"history_version\":";

[[noreturn]] void fail(const std::string& key, const std::string& expected, const Json& found) {
  std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "…";
  throw std::runtime_error(fmt::format("{}: expected {}, found {}", key, expected, text));
}

Json at(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? Json() : *found;
}

std::string text_at(const Json& object, const char* key, bool may_be_empty) {
  const Json value = at(object, key);
  const std::string expected = fmt::format("a text of {} to {} bytes", may_be_empty ? 0 : 1, kMostTextBytes);
  if (!value.is_string()) fail(key, expected, value);
  const auto& text = value.get_ref<const std::string&>();
  if (text.size() > kMostTextBytes || (text.empty() && !may_be_empty)) fail(key, expected, value);
  return text;
}

double time_at(const Json& object, const char* key) {
  const Json value = at(object, key);
  const std::string expected = fmt::format("a number of microseconds above 0 and at most {:g}", kMostUs);
  if (!value.is_number()) fail(key, expected, value);
  const double time = value.get<double>();
  if (!(time > 0 && time <= kMostUs)) fail(key, expected, value);
  return time;
}

std::optional<double> optional_time_at(const Json& object, const char* key) {
  if (at(object, key).is_null()) return std::nullopt;
  return time_at(object, key);
}

Json or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

bool torn(std::string_view line) {
  return line.starts_with(kBegin) || kBegin.starts_with(line);
}

}  // namespace

std::string to_history_line(const HistoryPoint& point) {
  const Json object{{"history_version", kHistoryVersion},
                    {"machine", point.machine},
                    {"case", point.case_name},
                    {"commit", point.commit},
                    {"date", point.date},
                    {"run_id", point.run_id},
                    {"launch_id", point.launch_id},
                    {"latency_us_p50", point.latency_us_p50},
                    {"latency_us_ci_low", or_null(point.latency_us_ci_low)},
                    {"latency_us_ci_high", or_null(point.latency_us_ci_high)}};
  std::string line = object.dump(-1, ' ', false, Json::error_handler_t::replace);
  (void)parse_point(line);  // what cannot be read again must not get in
  return line;
}

HistoryPoint parse_point(std::string_view line) {
  Problems problems;
  const Json object = parse_strict_json(line, problems);
  if (!problems.empty()) {
    const Problem& first = problems.items().front();
    throw std::runtime_error(first.pointer.empty() ? first.message : first.pointer + ": " + first.message);
  }
  if (!object.is_object()) fail("history", "a JSON object a line", object);
  const Json version = at(object, "history_version");
  if (version != kHistoryVersion || !version.is_number_integer())
    fail("history_version", fmt::format("{}", kHistoryVersion), version);
  HistoryPoint point;
  point.machine = text_at(object, "machine", false);
  point.case_name = text_at(object, "case", false);
  point.commit = text_at(object, "commit", false);
  point.date = text_at(object, "date", true);
  point.run_id = text_at(object, "run_id", true);
  point.launch_id = text_at(object, "launch_id", true);
  point.latency_us_p50 = time_at(object, "latency_us_p50");
  point.latency_us_ci_low = optional_time_at(object, "latency_us_ci_low");
  point.latency_us_ci_high = optional_time_at(object, "latency_us_ci_high");
  if (point.latency_us_ci_low && point.latency_us_ci_high &&
      *point.latency_us_ci_low > *point.latency_us_ci_high)
    fail("latency_us_ci_low", "at most latency_us_ci_high", at(object, "latency_us_ci_low"));
  return point;
}

HistoryFile read_history(const std::string& path) {
  constexpr int64_t kMostBytes = int64_t{1} << 30;
  return parse_history(path, read_text_file(path, kMostBytes));
}

HistoryFile parse_history(const std::string& path, std::string_view text) {
  HistoryFile file;
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const bool whole = newline != std::string_view::npos;
    const std::string_view line = text.substr(begin, (whole ? newline : text.size()) - begin);
    ++line_number;
    try {
      file.points.push_back(parse_point(line));
      file.lacks_newline = !whole;
    } catch (const std::runtime_error& error) {
      if (whole || !torn(line))
        throw std::runtime_error(fmt::format("{}:{}: {}", path, line_number, error.what()));
      file.torn_bytes = line.size();
    }
    begin = whole ? newline + 1 : text.size();
  }
  return file;
}

std::vector<HistorySeries> series_of(const std::vector<HistoryPoint>& points) {
  std::vector<HistorySeries> list;
  std::map<std::pair<std::string, std::string>, size_t> places;
  for (const HistoryPoint& point : points) {
    const auto [place, added] = places.emplace(std::pair(point.machine, point.case_name), list.size());
    if (added) list.push_back({point.machine, point.case_name, {}});
    list[place->second].points.push_back(point);
  }
  return list;
}

std::vector<HistoryPoint> points_of(const RunRows& run, const std::string& machine,
                                    const std::string& commit) {
  // Hosts of one cloud often share a name: the processor tells some of them apart.
  std::string of_machine = machine;
  if (of_machine.empty() && !run.machine.empty()) {
    of_machine = fmt::format("{} ({}, {} cores)", run.machine,
                             run.cpu.empty() ? "unknown processor" : run.cpu, run.cores);
  }
  const std::string of_commit = commit.empty() ? run.commit : commit;
  if (of_machine.empty())
    throw std::runtime_error(run.name + ": its environment.json names no machine: say --machine NAME");
  if (of_commit.empty())
    throw std::runtime_error(run.name + ": its environment.json names no commit: say --commit NAME");
  std::vector<HistoryPoint> points;
  for (const Record& record : run.records) {
    if (!has_time(record)) continue;
    HistoryPoint point{of_machine,
                       record.text("case"),
                       of_commit,
                       run.date,
                       record.text("run_id"),
                       record.text("launch_id"),
                       record.number("latency_us_p50"),
                       {},
                       {}};
    const double low = record.number("latency_us_ci_low"), high = record.number("latency_us_ci_high");
    if (std::isfinite(low) && std::isfinite(high)) {
      point.latency_us_ci_low = low;
      point.latency_us_ci_high = high;
    }
    points.push_back(std::move(point));
  }
  return points;
}

}  // namespace lamina

// The custom formats of github-action-benchmark, `tool: customSmallerIsBetter` and `customBiggerIsBetter`: a
// list of objects with `name`, `unit` and `value`, and where known `range` and `extra`, which are texts.
// Source: https://github.com/benchmark-action/github-action-benchmark, README.md ("Custom benchmark") and
// src/extract.ts (extractCustomBenchmarkResult), v1.20.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/sinks/trackers.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

// "± 3.2": half of the interval's width, in units of the value; empty where there is no interval.
std::string range(const Record& record, double scale) {
  const double half = (record.number("latency_us_ci_high") - record.number("latency_us_ci_low")) / 2 * scale;
  return std::isfinite(half) ? fmt::format("± {:.4g}", half) : "";
}

std::string extra(const Record& record) {
  const int64_t samples = record.integer("samples");
  return samples > 0 ? fmt::format("{} samples", samples) : "";
}

void add(Json& list, const TrackedRow& row, const char* unit, double value, const std::string& range_text) {
  Json entry{{"name", row.name}, {"unit", unit}, {"value", value}};
  if (!range_text.empty()) entry["range"] = range_text;
  if (const std::string text = extra(*row.record); !text.empty()) entry["extra"] = text;
  list.push_back(std::move(entry));
}

std::string text_of(const Json& list) {
  return list.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string smaller(const std::vector<RunRows>& runs) {
  Json list = Json::array();
  for (const TrackedRow& row : tracked_rows(runs))
    add(list, row, "us", row.record->number("latency_us_p50"), range(*row.record, 1));
  return text_of(list);
}

// Tokens a second, and factorisations a second, which have no tokens.
std::string bigger(const std::vector<RunRows>& runs) {
  Json list = Json::array();
  for (const TrackedRow& row : tracked_rows(runs)) {
    const double us = row.record->number("latency_us_p50"), tokens = row.record->number("tokens_per_s");
    const double rate = std::isfinite(tokens) ? tokens : 1e6 / us;
    // A time of 0 has no rate.
    if (std::isfinite(rate))
      add(list, row, std::isfinite(tokens) ? "tokens/s" : "1/s", rate, range(*row.record, rate / us));
  }
  return text_of(list);
}

}  // namespace

Sink smaller_is_better_sink() {
  return {"custom_smaller_is_better", "github-action-benchmark's customSmallerIsBetter: µs; ok rows only",
          smaller};
}

Sink bigger_is_better_sink() {
  return {"custom_bigger_is_better", "github-action-benchmark's customBiggerIsBetter: tokens/s; ok rows only",
          bigger};
}

}  // namespace lamina

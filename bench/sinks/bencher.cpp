// Bencher Metric Format, for `bencher run --adapter json`: an object of benchmarks, each an object of
// measures with `value` and where known `lower_value` and `upper_value`. Bencher's own measure `latency` is
// in nanoseconds. Source: https://bencher.dev/docs/reference/bencher-metric-format
#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/sinks/trackers.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

// Measures beside the time; Bencher makes those that it does not know.
constexpr std::pair<const char*, const char*> kMeasures[] = {{"tokens-per-second", "tokens_per_s"},
                                                             {"weight-bytes", "weight_bytes"},
                                                             {"quality-nmse", "quality_nmse"},
                                                             {"svd-error", "svd_error"}};

std::string render(const std::vector<RunRows>& runs) {
  constexpr double kNsPerUs = 1e3;
  Json document = Json::object();
  for (const TrackedRow& row : tracked_rows(runs)) {
    const Record& record = *row.record;
    Json latency{{"value", record.number("latency_us_p50") * kNsPerUs}};
    const double low = record.number("latency_us_ci_low"), high = record.number("latency_us_ci_high");
    if (std::isfinite(low) && std::isfinite(high)) {
      latency["lower_value"] = low * kNsPerUs;
      latency["upper_value"] = high * kNsPerUs;
    }
    Json measures{{"latency", std::move(latency)}};
    for (const auto& [measure, key] : kMeasures) {
      const double value = tracked_number(record, key);
      if (std::isfinite(value)) measures[measure] = Json{{"value", value}};
    }
    document[row.name] = std::move(measures);
  }
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

Sink bencher_sink() {
  return {"bencher", "Bencher Metric Format (`bencher run --adapter json`); ok rows only", render};
}

}  // namespace lamina

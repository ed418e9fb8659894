// Google Benchmark's JSON, as its 1.7 JSONReporter writes it and its tools/compare.py reads it:
// https://github.com/google/benchmark/blob/v1.7.1/src/json_reporter.cc
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "bench/sinks/trackers.hpp"

namespace lamina {
namespace {

using Json = nlohmann::ordered_json;

// Flat numeric keys beside the times, as Google Benchmark's counters are.
constexpr const char* kCounters[] = {"tokens_per_s",   "gflops",       "weight_gb_per_s", "speedup_vs_dense",
                                     "limit_fraction", "weight_bytes", "comm_bytes",      "quality_nmse",
                                     "check_error",    "ranks"};

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double stddev(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double center = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - center) * (value - center);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

// Every rank counts, as each thread does in Google Benchmark.
int64_t workers(const Record& record) {
  return std::max<int64_t>(record.integer("ranks"), 1) * std::max<int64_t>(record.integer("threads"), 1);
}

Json row(const std::string& name, const char* suffix, const char* type, const Record& record, size_t family,
         size_t repetitions) {
  return Json{{"name", name + suffix},     {"family_index", family}, {"per_family_instance_index", 0},
              {"run_name", name},          {"run_type", type},       {"repetitions", repetitions},
              {"threads", workers(record)}};
}

void add_times(Json& row, double time_us) {
  row["real_time"] = time_us;
  row["cpu_time"] = time_us;  // a step's time is the slowest rank's wall clock: there is no one CPU time
  row["time_unit"] = "us";
}

void add_counters(Json& row, const Record& record) {
  for (const char* counter : kCounters) {
    const double value = record.number(counter);
    if (std::isfinite(value)) row[counter] = value;
  }
}

// Every sample an iteration, and what Google Benchmark says of its repetitions.
void add_all(Json& benchmarks, const std::string& name, const Record& record, size_t family) {
  std::vector<double> samples;
  if (const auto* list = std::get_if<std::vector<double>>(&record.get("samples_us"))) samples = *list;
  if (samples.empty()) samples.push_back(record.number("latency_us_p50"));
  const int64_t iterations = std::max<int64_t>(record.integer("iterations_per_sample"), 1);
  for (size_t i = 0; i < samples.size(); ++i) {
    Json entry = row(name, "", "iteration", record, family, samples.size());
    entry["repetition_index"] = i;
    entry["iterations"] = iterations;
    add_times(entry, samples[i]);
    benchmarks.push_back(std::move(entry));
  }
  const std::pair<const char*, double> aggregates[] = {
      {"mean", mean(samples)}, {"median", record.number("latency_us_p50")}, {"stddev", stddev(samples)}};
  for (const auto& [aggregate, time] : aggregates) {
    Json entry =
        row(name, (std::string("_") + aggregate).c_str(), "aggregate", record, family, samples.size());
    entry["aggregate_name"] = aggregate;
    entry["aggregate_unit"] = "time";
    entry["iterations"] = samples.size();
    add_times(entry, time);
    if (std::string_view(aggregate) == "median") add_counters(entry, record);
    benchmarks.push_back(std::move(entry));
  }
}

// One row under the case's own name, as a benchmark without repetitions has.
void add_median(Json& benchmarks, const std::string& name, const Record& record, size_t family) {
  Json entry = row(name, "", "iteration", record, family, 1);
  entry["repetition_index"] = 0;
  entry["iterations"] =
      std::max<int64_t>(record.integer("samples") * record.integer("iterations_per_sample"), 1);
  add_times(entry, record.number("latency_us_p50"));
  add_counters(entry, record);
  benchmarks.push_back(std::move(entry));
}

template <typename Add>
std::string render(const std::vector<RunRows>& runs, Add add_record) {
  Json document;
  const RunRows empty;
  const RunRows& first = runs.empty() ? empty : runs.front();
  document["context"] =
      Json{{"date", first.date},      {"host_name", first.machine}, {"executable", "lamina"},
           {"num_cpus", first.cores}, {"mhz_per_cpu", 0},           {"cpu_scaling_enabled", false},
           {"caches", Json::array()}, {"load_avg", Json::array()},  {"library_build_type", "release"}};
  document["benchmarks"] = Json::array();
  size_t family = 0;
  for (const TrackedRow& row : tracked_rows(runs))
    add_record(document["benchmarks"], row.name, *row.record, family++);
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

Sink google_benchmark_sink() {
  return {"google_benchmark", "Google Benchmark's JSON, every sample, for its compare.py; ok rows only",
          [](const std::vector<RunRows>& runs) { return render(runs, add_all); }};
}

Sink google_benchmark_median_sink() {
  return {"google_benchmark_median", "the same with one row a case, its p50, for trackers; ok rows only",
          [](const std::vector<RunRows>& runs) { return render(runs, add_median); }};
}

}  // namespace lamina

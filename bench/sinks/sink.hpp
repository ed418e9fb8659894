// Where rows go. A sink that renders whole files is one file here and one line in register.cpp; records.jsonl
// is the exception, because it grows while the run lasts.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/record.hpp"

namespace lamina {

// The rows of one run, and what an export says about where they come from.
struct RunRows {
  std::string name;     // of the run's folder
  std::string machine;  // its host, from environment.json; empty when unknown
  std::string date;     // ISO 8601, UTC, when the run began; empty when unknown
  int64_t cores = 0;    // of the machine; 0 when unknown
  std::vector<Record> records;
  std::string cpu = {};     // of the machine, with its GPU; empty when unknown
  std::string commit = {};  // that the program was built from; empty when unknown
};

struct Sink {
  std::string name;  // as --format takes it
  std::string help;  // one line
  // The whole file's text, ending in a newline. Rows from several runs stand together.
  std::function<std::string(const std::vector<RunRows>& runs)> render;
};

// Every format of `lamina export`.
const std::vector<Sink>& sinks();
const Sink* find_sink(std::string_view name);

// Markdown, one table per layer and tokens: `table.md`, and what `lamina run` prints.
Sink table_sink();
// Markdown: the rows that no other beats.
Sink pareto_sink();
// Markdown: who wins for each number of tokens, and efficiency over ranks: `ok` rows of layers only.
Sink scaling_sink();
// RFC 4180, one row per record: the scalar keys, and `warnings` joined by "; ".
Sink csv_sink();
// Google Benchmark's JSON: finite numbers and `ok` rows only.
Sink google_benchmark_sink();
// The same with one row a case, its p50 under the case's name: trackers that read googlecpp plot every row.
Sink google_benchmark_median_sink();
// github-action-benchmark's customSmallerIsBetter (times) and customBiggerIsBetter (rates): `ok` rows only.
Sink smaller_is_better_sink();
Sink bigger_is_better_sink();
// Bencher Metric Format: `ok` rows only.
Sink bencher_sink();
// Collectives in nccl-tests' columns: `ok` rows only.
Sink nccl_sink();
// One figure of merit a line: `ok` rows only.
Sink fom_sink();

// Reads a run for export: `path` is its folder or a records.jsonl. `warning` gets what the reader wants said.
// Throws std::runtime_error naming the path.
RunRows load_run(const std::string& path, std::string* warning);

}  // namespace lamina

#include "bench/compare/side.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <stdexcept>

#include "bench/record.hpp"
#include "kernels/json.hpp"

namespace lamina::compare {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kPrefix = "launch-";
// A picosecond and 30 years: no step takes less or more.
constexpr double kShortestUs = 1e-6, kLongestUs = 1e15;
constexpr double kLeastMhz = 100, kMostMhz = 10'000;

double ratio_or(double value, double over, double otherwise) {
  const double ratio = value / over;
  return std::isfinite(ratio) && ratio >= 0 ? ratio : otherwise;
}

LaunchRow read_row(const Record& record) {
  LaunchRow row;
  row.status = record.text("status");
  row.reason = record.text("reason");
  if (row.status == "ok") {
    const double us = record.number("latency_us_p50");
    if (us >= kShortestUs && us <= kLongestUs) {
      row.time_us = us;
    } else {
      row.status = "invalid";
      row.reason = std::isnan(us) ? "ok, but without latency_us_p50"
                                  : fmt::format("latency_us_p50: expected {:g} to {:g}, found {:g}",
                                                kShortestUs, kLongestUs, us);
    }
    const double cycles = record.number("cycles_p50"), clock_mhz = record.number("core_clock_mhz");
    // Of the same blocks as the time, or nearly: else one of the three is no measurement.
    if (clock_mhz >= kLeastMhz && clock_mhz <= kMostMhz && cycles > 0.5 * us * clock_mhz &&
        cycles < 2 * us * clock_mhz) {
      row.cycles = cycles;
      row.clock_mhz = clock_mhz;
    }
    const auto* passed = std::get_if<bool>(&record.get("check_passed"));
    if (passed != nullptr && !*passed) {
      row.status = "invalid";
      row.reason = "ok, but check_passed is false";
    }
    const double nmse = record.number("quality_nmse"), error = record.number("svd_error");
    if (nmse >= 0)
      row.quality = nmse;
    else if (error >= 0 && record.text("workload") == "svd")
      row.quality = error * error;
    row.kernel = record.text("kernel");
    if (const std::string isa = record.text("isa"); !isa.empty()) row.kernel += " " + isa;
    row.check_share = ratio_or(record.number("check_error"), record.number("check_tolerance"), -1);
  }
  for (const char* key :
       {"tokens", "in_features", "out_features", "intermediate_features", "ranks", "nodes", "threads"})
    row.shape += fmt::format("{}{} {}", row.shape.empty() ? "" : ", ", key, record.integer(key));
  for (const char* key : {"workload", "model", "layer", "scheme", "device", "cache"})
    row.shape += fmt::format(", {} {}", key, record.text(key));
  if (const auto* list = std::get_if<std::vector<std::string>>(&record.get("warnings"))) row.warnings = *list;
  return row;
}

Launch read_rows(std::vector<Record> records) {
  Launch launch;
  for (const Record& record : last_of_each_case(std::move(records))) {
    const std::string name = record.text("case");
    if (name.empty()) throw std::runtime_error("expected every row to name its `case`, found one without");
    launch.rows.emplace(name, read_row(record));
    launch.cases.push_back(name);
    launch.run_id = record.text("run_id");
  }
  return launch;
}

// A scalar as text; empty for anything else.
std::string scalar(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  return "";
}

// The value at a path such as {"machine", "cpu"}.
std::string at(const Json& root, std::initializer_list<const char*> path) {
  const Json* here = &root;
  for (const char* key : path) {
    if (!here->is_object() || !here->contains(key)) return "";
    here = &(*here)[key];
  }
  return scalar(*here);
}

// What stands under `key` of each launch of a run; several values where a resumed run had them.
std::string of_launches(const Json& root, const char* key) {
  std::vector<std::string> values;
  if (!root.contains("launches") || !root["launches"].is_array()) return "";
  for (const Json& launch : root["launches"]) {
    const std::string value = at(launch, {key});
    if (!value.empty() && std::find(values.begin(), values.end(), value) == values.end())
      values.push_back(value);
  }
  return fmt::format("{}", fmt::join(values, " and "));
}

// Their names, or "none": a run says why CUDA sees none. Empty where it says nothing.
std::string gpus(const Json& root) {
  if (!root.contains("machine") || !root["machine"].is_object() || !root["machine"].contains("cuda"))
    return "";
  if (!root["machine"]["cuda"].is_array()) return "none";
  std::vector<std::string> names;
  for (const Json& gpu : root["machine"]["cuda"]) names.push_back(scalar(gpu));
  return fmt::format("{}", fmt::join(names, ", "));
}

// A config without what changes no row: equal texts are equal measurements.
std::string essence(const Json& root) {
  if (!root.contains("config") || !root["config"].is_object()) return at(root, {"config_digest"});
  Json config = root["config"];
  for (const char* key : {"$schema", "description", "name"}) config.erase(key);
  return config.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<Fact> read_facts(const Json& root) {
  std::vector<Fact> facts = {
      {"schema_version", at(root, {"schema_version"}), Weight::refused},
      {"config", essence(root), Weight::refused, "digest " + at(root, {"config_digest"})},
      {"ranks", of_launches(root, "ranks"), Weight::refused},
      {"nodes", of_launches(root, "nodes"), Weight::refused},
      {"CPU", at(root, {"machine", "cpu"}), Weight::machine},
      {"cores", at(root, {"machine", "cores"}), Weight::machine},
      {"GPU", gpus(root), Weight::machine},
      {"host", at(root, {"machine", "host"})},
      {"memory_bytes", at(root, {"machine", "memory_bytes"})},
      {"threads", of_launches(root, "threads")},
      {"instruction set", at(root, {"machine", "isa"})},
      {"clock_governor", at(root, {"machine", "clock_governor"})},
      {"turbo", at(root, {"machine", "turbo"})},
      {"system", at(root, {"machine", "system"})},
      {"distribution", at(root, {"machine", "distribution"})},
      {"commit", at(root, {"lamina", "commit"})},
      {"version", at(root, {"lamina", "version"})},
      {"build_type", at(root, {"lamina", "build_type"})},
      {"compiler", at(root, {"lamina", "compiler"})},
      {"MPI", at(root, {"libraries", "mpi"})},
      {"BLAS", at(root, {"libraries", "blas"})},
      {"ScaLAPACK", at(root, {"libraries", "scalapack"})},
      {"ELPA", at(root, {"libraries", "elpa"})},
  };
  return facts;
}

void read_environment(const fs::path& path, Launch& launch, std::vector<std::string>& warnings) {
  if (!fs::exists(path)) return;
  Problems problems;
  const Json root = parse_strict_json(read_text_file(path.string()), problems);
  if (!problems.empty()) throw std::runtime_error(path.string() + ": " + problems.items().front().message);
  if (!root.is_object()) throw std::runtime_error(path.string() + ": expected an object");
  if (!launch.run_id.empty() && at(root, {"run_id"}) != launch.run_id) {
    warnings.push_back(path.string() + ": is of another run than records.jsonl beside it: not used");
    return;
  }
  launch.facts = read_facts(root);
  if (root.contains("launches") && root["launches"].is_array() && !root["launches"].empty())
    launch.started = at(root["launches"].front(), {"started"});
}

std::vector<Launch> read_file(const fs::path& path, std::vector<std::string>& warnings) {
  std::string warning;
  std::vector<Record> records = read_records(path.string(), &warning);
  if (!warning.empty()) warnings.push_back(warning);
  if (records.empty()) throw std::runtime_error(path.string() + ": expected rows, found none");
  std::vector<std::string> runs;  // in the order of their first rows
  std::map<std::string, std::vector<Record>> rows;
  for (Record& record : records) {
    const std::string run = record.text("run_id");
    if (!rows.contains(run)) runs.push_back(run);
    rows[run].push_back(std::move(record));
  }
  std::vector<Launch> launches;
  for (const std::string& run : runs) {
    try {
      launches.push_back(read_rows(std::move(rows[run])));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path.string() + ": " + error.what());
    }
    launches.back().name = runs.size() == 1 ? path.string() : fmt::format("{} (run {})", path.string(), run);
  }
  if (launches.size() == 1)
    read_environment(path.parent_path() / "environment.json", launches.front(), warnings);
  return launches;
}

// The K of launch-K; -1 for any other name.
int64_t launch_number(const std::string& name) {
  const std::string prefix = kPrefix;
  if (!name.starts_with(prefix)) return -1;
  int64_t number = -1;
  const char* end = name.data() + name.size();
  const auto read = std::from_chars(name.data() + prefix.size(), end, number);
  return read.ec == std::errc() && read.ptr == end && number >= 0 ? number : -1;
}

}  // namespace

Side read_side(const std::string& path, std::vector<std::string>& warnings) {
  Side side;
  side.path = path;
  if (!fs::exists(path)) throw std::runtime_error(path + ": expected a run, found nothing there");
  if (!fs::is_directory(path)) {
    side.launches = read_file(path, warnings);
    return side;
  }
  const bool is_run = fs::exists(fs::path(path) / "records.jsonl");
  std::vector<std::pair<int64_t, fs::path>> folders;
  for (const auto& entry : fs::directory_iterator(path)) {
    const int64_t number = launch_number(entry.path().filename().string());
    if (number >= 0 && entry.is_directory()) folders.emplace_back(number, entry.path());
  }
  if (is_run && !folders.empty())
    throw std::runtime_error(path + ": expected a run or a folder of launches, found records.jsonl beside " +
                             folders.front().second.filename().string());
  if (is_run) folders.emplace_back(0, path);
  if (folders.empty())
    throw std::runtime_error(path +
                             ": expected a run's folder or one of launch-1, launch-2, …; found neither "
                             "records.jsonl nor launches in it");
  std::sort(folders.begin(), folders.end());
  for (const auto& [number, folder] : folders) {
    const fs::path records = folder / "records.jsonl";
    if (!fs::exists(records))
      throw std::runtime_error(folder.string() +
                               ": expected a run's folder, found one without records.jsonl");
    std::vector<Launch> launches = read_file(records, warnings);
    if (launches.size() != 1 && !is_run)
      throw std::runtime_error(records.string() + ": expected the rows of one run, found several");
    for (Launch& launch : launches) side.launches.push_back(std::move(launch));
  }
  return side;
}

bool interleaved(const Side& base, const Side& next) {
  const size_t count = base.launches.size();
  if (count != next.launches.size() || count < 2) return false;
  std::string latest;
  for (size_t i = 0; i < count; ++i) {
    const std::string &one = base.launches[i].started, &other = next.launches[i].started;
    // "2026-01-31T12:00:00Z": texts of one length sort as times do.
    if (one.size() != 20 || other.size() != 20 || one.back() != 'Z' || other.back() != 'Z') return false;
    if (std::min(one, other) < latest) return false;
    latest = std::max(one, other);
  }
  return true;
}

}  // namespace lamina::compare

// From JSON text to cases: every array is an axis, and every error is reported at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/params.hpp"

namespace lamina {

struct MeasureOptions {
  double precision = 0.01;  // half-width of the 95 % interval over the median, to stop at
  int64_t min_samples = 30;
  double max_seconds = 5;        // per case
  double timeout_seconds = 120;  // one step longer than this is a `timeout`
  std::string cache = "cold";    // default of the experiments' key
};
const std::vector<KeySpec>& measure_keys();
const std::vector<KeySpec>& config_keys();  // of the top level

// One point of a sweep, before a workload reads it.
struct CaseParams {
  int64_t experiment = 0;
  std::shared_ptr<Params> params;
};

struct Config {
  std::string name, description;
  uint64_t seed = 1;
  MeasureOptions measure;
  std::vector<CaseParams> cases;
  std::string text;    // normalised JSON after --set, for provenance
  std::string digest;  // of `text`, 16 hex digits (FNV-1a 64)
};

// FNV-1a of 64 bits (Fowler, Noll and Vo), as 16 hex digits: tells texts apart, keeps no secret.
std::string fnv1a_64(std::string_view text);

inline constexpr int64_t kMaxCases = 100'000;

// `overrides` are KEY=VALUE from --set: `measure.precision=0.02`, `seed=2`, `experiments.0.tokens=[1,2]`, or
// a bare experiment key (`tokens=1`) for every experiment. Problems are collected; the config is usable when
// there are none. More than kMaxCases cases is a problem unless `many` (--yes).
Config read_config(const std::string& text, const std::vector<std::string>& overrides, bool many,
                   Problems& problems);

}  // namespace lamina

// Made-up sides of a comparison.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "bench/compare/verdicts.hpp"

namespace lamina::compare {

// A launch of rows a, b, … with these times.
inline Launch launch_of(const std::string& id, const std::vector<double>& times_us) {
  Launch launch;
  launch.name = launch.run_id = id;
  for (size_t i = 0; i < times_us.size(); ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    LaunchRow row;
    row.status = "ok";
    row.time_us = times_us[i];
    row.quality = 1e-3;
    launch.cases.push_back(name);
    launch.rows[name] = row;
  }
  launch.facts = {{"config", "c", Weight::refused}, {"CPU", "x", Weight::machine}, {"host", "h"}};
  return launch;
}

// Two sides of `count` launches each, one row, times that differ by a part in a thousand; NEW slower by `by`.
struct Pair {
  Side base{"base", {}}, next{"new", {}};
  explicit Pair(int count, double by = 1) {
    for (int i = 0; i < count; ++i) {
      const double wave = 1 + 0.001 * (i % 3);
      base.launches.push_back(launch_of(fmt::format("b{}", i), {100 * wave}));
      next.launches.push_back(launch_of(fmt::format("n{}", i), {100 * by * (2 - wave)}));
    }
  }
  Comparison compared(const Settings& settings = {}) const { return compare(base, next, settings); }
  LaunchRow& row(int launch) { return next.launches[static_cast<size_t>(launch)].rows["a"]; }
};

}  // namespace lamina::compare

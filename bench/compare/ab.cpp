#include "bench/compare/ab.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>

#include "bench/atomic_file.hpp"
#include "bench/compare/report.hpp"
#include "bench/config.hpp"
#include "bench/environment.hpp"
#include "bench/runner.hpp"
#include "bench/text.hpp"
#include "kernels/json.hpp"

namespace lamina::compare {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// What a folder is of, so that it is not gone on with as something else.
Json plan_of(const AbOptions& options) {
  const auto digest = [](const std::string& path) {
    return fnv1a_64(read_text_file(path, int64_t{4} << 30));
  };
  return {{"ab_version", 1},
          {"base", options.base_binary},
          {"base_digest", digest(options.base_binary)},
          {"new", options.new_binary},
          {"new_digest", digest(options.new_binary)},
          {"config", options.start.config_path},
          {"config_digest", digest(options.start.config_path)},
          {"launches", options.launches},
          {"launcher", fmt::format("{}", fmt::join(options.start.launcher, " "))},
          {"filter", options.start.filter},
          {"set", options.start.overrides}};
}

// Writes the plan into a new folder, or holds it against what is there. Returns the seed of the orders.
uint64_t open_plan(const AbOptions& options, const std::string& folder) {
  const std::string path = (fs::path(folder) / "ab.json").string();
  Json plan = plan_of(options);
  if (!fs::exists(path)) {
    if (options.resume)
      throw std::runtime_error(folder + ": expected an interrupted ab, found no ab.json in it");
    if (fs::exists(fs::path(folder) / "base") || fs::exists(fs::path(folder) / "new"))
      throw std::runtime_error(folder + ": expected nothing there, found launches; choose another -o");
    plan["seed"] = std::random_device()();
    fs::create_directories(fs::path(folder) / "base");
    fs::create_directories(fs::path(folder) / "new");
    write_file_atomically(path, plan.dump(2) + "\n");
    return plan["seed"].get<uint64_t>();
  }
  if (!options.resume)
    throw std::runtime_error(folder +
                             ": expected nothing there, found ab.json; go on with --resume or choose "
                             "another -o");
  Problems problems;
  const Json found = parse_strict_json(read_text_file(path), problems);
  if (!problems.empty() || !found.is_object() || !found.contains("seed") ||
      !found["seed"].is_number_integer())
    throw std::runtime_error(path + ": expected an ab's plan, found something else");
  for (const auto& [key, value] : plan.items())
    if (!found.contains(key) || found[key] != value)
      throw std::runtime_error(fmt::format(
          "{}: {}: expected {} as now, found {}; launches of something else cannot be gone on with", path,
          key, value.dump(), found.contains(key) ? found[key].dump() : "none"));
  return found["seed"].get<uint64_t>();
}

struct Sides {
  Start start[2];
  std::string folder[2];
};

// Measures a pair, unless it is there. A half one is done again whole: a pair is what ran side by side.
void make_pair(const Sides& sides, int64_t number, bool new_first) {
  const std::string folders[2] = {launch_folder(sides.folder[0], number),
                                  launch_folder(sides.folder[1], number)};
  if (is_complete(folders[0]) && is_complete(folders[1])) return;
  for (const std::string& folder : folders) fs::remove_all(folder);
  for (const int turn : {0, 1}) {
    const int side = (turn == 1) != new_first ? 1 : 0;
    launch(sides.start[side], folders[side]);
  }
}

Comparison compare_pairs(const Sides& sides, int64_t pairs, const Settings& settings) {
  std::vector<std::string> warnings;
  Side base = read_side(sides.folder[0], warnings), next = read_side(sides.folder[1], warnings);
  base.launches.resize(std::min(base.launches.size(), static_cast<size_t>(pairs)));
  next.launches.resize(std::min(next.launches.size(), static_cast<size_t>(pairs)));
  Comparison comparison = compare(base, next, settings);
  comparison.notes.insert(comparison.notes.begin(), warnings.begin(), warnings.end());
  return comparison;
}

int64_t decided_rows(const Comparison& comparison) {
  return static_cast<int64_t>(comparison.rows.size()) - comparison.count(Verdict::inconclusive);
}

// Pair after pair, with a look where one is due.
Comparison measure(const Sides& sides, const AbOptions& options, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Look> looks = looks_of(options.launches);
  size_t look = 0;
  const auto begin = std::chrono::steady_clock::now();
  Settings settings = options.report.settings;
  int64_t made = 0;
  for (int64_t pair = 1;; ++pair) {
    const bool new_first = random() >> 63 != 0;
    const bool known = is_complete(launch_folder(sides.folder[0], pair)) &&
                       is_complete(launch_folder(sides.folder[1], pair));
    make_pair(sides, pair, new_first);
    if (!known) {
      const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      const double left = passed / static_cast<double>(++made) * static_cast<double>(options.launches - pair);
      fmt::print(stderr, "lamina: pair {} of at most {} is done; {:.0f} s left at most{}\n", pair,
                 options.launches, left,
                 looks[look].pairs > pair ? fmt::format(", next look at pair {}", looks[look].pairs) : "");
    }
    if (pair == 1 && pair < looks[look].pairs) {
      // What cannot be compared is known now.
      Comparison first = compare_pairs(sides, 1, settings);
      if (!first.refusals.empty()) return first;
    }
    if (pair < looks[look].pairs) continue;
    settings.share = looks[look].share;
    Comparison comparison = compare_pairs(sides, pair, settings);
    fmt::print(stderr, "lamina: look at {} pairs: {} of {} rows decided\n", pair, decided_rows(comparison),
               comparison.rows.size());
    if (!comparison.refusals.empty() || comparison.decided() || ++look == looks.size()) return comparison;
  }
}

}  // namespace

std::vector<Look> looks_of(int64_t launches) {
  if (launches < 5) return {{launches, 1}};
  // Upwards: 40 % of 6 are 3.
  return {{(launches * 4 + 9) / 10, 0.1}, {(launches * 7 + 9) / 10, 0.2}, {launches, 0.7}};
}

int run_ab(const AbOptions& options) {
  const std::string hindrance = launch_hindrance();
  if (!hindrance.empty()) {
    fmt::print(stderr, "lamina: ab: {}\n", hindrance);
    return kExitUsage;
  }
  std::string folder = options.out_dir;
  if (folder.empty()) {
    std::string stamp = utc_now();
    std::erase_if(stamp, [](char c) { return c == '-' || c == ':'; });
    folder = "runs/ab-" + stamp;
  }
  uint64_t seed = 0;
  try {
    seed = open_plan(options, folder);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitUsage;
  }
  fmt::print(stderr, "lamina: launches go to {}\n", printable(folder));
  Sides sides;
  for (const int side : {0, 1}) {
    sides.start[side] = options.start;
    sides.start[side].binary = side == 0 ? options.base_binary : options.new_binary;
    sides.folder[side] = (fs::path(folder) / (side == 0 ? "base" : "new")).string();
  }
  try {
    const Comparison comparison = measure(sides, options, seed);
    if (comparison.refusals.empty())
      write_file_atomically((fs::path(folder) / "report.md").string(), markdown_report(comparison));
    Options how = options.report;
    how.out_file = (fs::path(folder) / "verdict.json").string();
    return report(comparison, how);
  } catch (const std::exception& error) {
    // Its lines are made printable where they come from a log.
    fmt::print(stderr, "lamina: {}\nlamina: go on with --resume -o {}\n", error.what(), printable(folder));
    return kExitFailed;
  }
}

}  // namespace lamina::compare

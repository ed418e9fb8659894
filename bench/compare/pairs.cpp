#include "bench/compare/pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <stdexcept>

#include "bench/atomic_file.hpp"
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
  Json plan = {{"ab_version", 2},
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
  plan["slow_digests"] = Json::array();
  for (const std::string& slow : options.slow_binaries) plan["slow_digests"].push_back(digest(slow));
  return plan;
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
    fs::create_directories(folder);
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

// An interruption leaves half a pair, and a pair is what ran side by side.
void drop_half_pairs(const Pairs& pairs) {
  for (int64_t number = 1; number <= pairs.count; ++number) {
    if (pairs.has(number)) continue;
    for (const std::string& folder : pairs.folder) fs::remove_all(launch_folder(folder, number));
  }
}

}  // namespace

bool Pairs::has(int64_t number) const {
  return std::all_of(folder.begin(), folder.end(),
                     [&](const std::string& side) { return is_complete(launch_folder(side, number)); });
}

Pairs open_pairs(const AbOptions& options) {
  Pairs pairs;
  pairs.path = options.out_dir.empty() ? fresh_run_folder("ab") : options.out_dir;
  pairs.count = options.launches;
  pairs.random.seed(open_plan(options, pairs.path));
  const auto add = [&](const std::string& side, const std::string& binary) {
    pairs.start.push_back(options.start);
    pairs.start.back().binary = binary;
    pairs.folder.push_back((fs::path(pairs.path) / side).string());
    fs::create_directories(pairs.folder.back());
  };
  add("base", options.base_binary);
  add("new", options.new_binary);
  for (size_t i = 0; i < options.slow_binaries.size(); ++i)
    add(fmt::format("slow-{}", i + 1), options.slow_binaries[i]);
  drop_half_pairs(pairs);
  return pairs;
}

bool make_pair(Pairs& pairs, int64_t number) {
  // Drawn for pairs that are there too: a resumed folder has the orders of an uninterrupted one.
  std::vector<size_t> order(pairs.start.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[pairs.random() % i]);
  if (pairs.has(number)) return false;
  for (const size_t side : order) launch(pairs.start[side], launch_folder(pairs.folder[side], number));
  ++pairs.made;
  return true;
}

double seconds_left(const Pairs& pairs, int64_t number) {
  const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - pairs.begin).count();
  return passed / static_cast<double>(std::max<int64_t>(pairs.made, 1)) *
         static_cast<double>(pairs.count - number);
}

Side read_launches(const Pairs& pairs, size_t side, int64_t count, std::vector<std::string>& warnings) {
  Side result = read_side(pairs.folder[side], warnings);
  result.launches.resize(std::min(result.launches.size(), static_cast<size_t>(count)));
  return result;
}

int with_pairs(const std::string& command, const AbOptions& options,
               const std::function<int(Pairs& pairs)>& work) {
  const std::string hindrance = launch_hindrance();
  if (!hindrance.empty()) {
    fmt::print(stderr, "lamina: {}: {}\n", command, hindrance);
    return kExitUsage;
  }
  Pairs pairs;
  try {
    pairs = open_pairs(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitUsage;
  }
  fmt::print(stderr, "lamina: launches go to {}\n", printable(pairs.path));
  try {
    return work(pairs);
  } catch (const std::exception& error) {
    // Its lines are made printable where they come from a log.
    fmt::print(stderr, "lamina: {}\nlamina: go on with --resume -o {}\n", error.what(),
               printable(pairs.path));
    return kExitFailed;
  }
}

}  // namespace lamina::compare

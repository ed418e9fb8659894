#include "bench/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <random>

#include "bench/atomic_file.hpp"
#include "bench/config.hpp"
#include "bench/environment.hpp"
#include "bench/group_run.hpp"
#include "bench/machine.hpp"
#include "bench/plan.hpp"
#include "bench/progress.hpp"
#include "bench/sinks/jsonl.hpp"
#include "bench/sinks/sink.hpp"
#include "bench/text.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;

// A run's folder as it is found or made. Rank 0's.
struct Folder {
  fs::path path;
  std::string run_id;
  std::string previous_environment;  // of the run that is resumed
  std::vector<Record> records;       // that it has, the last one of each case
};

std::string new_id() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

// Prints on rank 0 what stands against the config; true on every rank when anything does on any.
bool report_problems(const RunOptions& options, const Config& config, const Problems& problems,
                     Communicator& world) {
  std::string first;
  for (const Problem& one : problems.items())
    first += (first.empty() ? "" : "; ") + one.pointer + ": " + one.message;
  const Agreement agreement = world.agree(first);
  if (agreement.ok) return false;
  if (world.rank() == 0) {
    for (const Problem& one : problems.items())
      fmt::print(stderr, "{}: {}: {}\n", printable(options.config_path),
                 one.pointer.empty() ? "/" : printable(one.pointer), printable(one.message));
    // Where its files come from, nobody else knows. Of swept files the pointer ends with a number.
    const auto names_file = [](const Problem& one) {
      const size_t last = one.pointer.find_last_not_of("/0123456789");
      const std::string_view key =
          std::string_view(one.pointer).substr(0, last == std::string::npos ? 0 : last + 1);
      return key.ends_with("/weights") || key.ends_with("/inputs") || key.ends_with("/cotangents") ||
             key.ends_with("/compressed");
    };
    if (!config.description.empty() && std::ranges::any_of(problems.items(), names_file))
      fmt::print(stderr, "{}: /description: {}\n", printable(options.config_path),
                 printable(config.description));
    // Another rank's trouble, such as a weights file that its node does not have.
    if (problems.empty())
      fmt::print(stderr, "{}: {}\n", printable(options.config_path), printable(agreement.message));
  }
  return true;
}

void print_dry_run(const Plan& plan, const Machine& machine, const MeasureOptions& measure) {
  double seconds = 0;
  const PlannedGroup* fullest = &plan.groups.front();
  const auto share = [&](const PlannedGroup& group) {
    return static_cast<double>(group.memory_bytes) /
           static_cast<double>(machine.available_bytes_for(group.ranks));
  };
  size_t width = 4;
  for (const PlannedGroup& group : plan.groups) {
    seconds += group.estimated_s;
    if (share(group) > share(*fullest)) fullest = &group;
    for (const PlannedCase& one : group.cases) width = std::max(width, display_width(one.spec->name));
  }
  fmt::print("| {:<{}} | memory [MiB/rank] | time [s] |\n|-{:-<{}}-|------------------:|---------:|\n",
             "case", width, "", width);
  for (const PlannedGroup& group : plan.groups)
    for (const PlannedCase& one : group.cases)
      fmt::print(
          "| {:<{}} | {:>17.1f} | {:>8.2f} |{}\n", one.spec->name, width,
          static_cast<double>(one.spec->stated_bytes > 0 ? one.spec->stated_bytes
                                                         : one.spec->canonical_bytes + one.spec->own_bytes) /
              (1 << 20),
          estimated_sampling_s(*one.spec, measure) + one.spec->estimated_compress_s +
              one.spec->estimated_pack_s,
          one.spec->skip_reason.empty() ? "" : "  skipped: " + one.spec->skip_reason);
  fmt::print(
      "\n{} cases in {} groups on {} ranks × {} threads; up to {:.2f} GiB a rank, {:.2f} GiB available to "
      "each; about {:.0f} s.\n"
      "Estimates: 10 GB/s and 30 GFLOP/s a rank; the sums count weights that cases share once.\n",
      plan.cases, plan.groups.size(), machine.launch.ranks, machine.launch.default_threads,
      static_cast<double>(fullest->memory_bytes) / kGiB,
      static_cast<double>(machine.available_bytes_for(fullest->ranks)) / kGiB, std::ceil(seconds));
}

// Finds or makes the folder on rank 0; throws std::runtime_error with what to do.
Folder open_folder(const RunOptions& options, const Config& config) {
  Folder folder;
  folder.run_id = new_id();
  if (options.out_dir.empty()) {
    folder.path = fresh_run_folder(config.name);
  } else {
    folder.path = options.out_dir;
  }
  const fs::path records = folder.path / "records.jsonl", environment = folder.path / "environment.json";
  if (options.resume) {
    if (!fs::exists(environment))
      throw std::runtime_error(
          fmt::format("{}: expected the folder of an interrupted run, found no environment.json in it",
                      folder.path.string()));
    folder.previous_environment = read_text_file(environment.string());
    Problems problems;
    const auto json = parse_strict_json(folder.previous_environment, problems);
    if (!problems.empty() || !json.is_object() || !json.contains("run_id") || !json["run_id"].is_string())
      throw std::runtime_error(environment.string() + ": expected a run's environment, found something else");
    const std::string digest = json.contains("config_digest") && json["config_digest"].is_string()
                                   ? json["config_digest"].get<std::string>()
                                   : "none";
    if (digest != config.digest)
      throw std::runtime_error(fmt::format(
          "{}: expected the run of this very config (digest {}), found digest {}; resume with the same "
          "file and --set, or start a new run with another -o",
          folder.path.string(), config.digest, digest));
    folder.run_id = json["run_id"].get<std::string>();
    std::string warning;
    if (fs::exists(records)) folder.records = last_of_each_case(read_records(records.string(), &warning));
    if (!warning.empty()) fmt::print(stderr, "lamina: {}\n", printable(warning));
  } else {
    if (fs::exists(folder.path) && !fs::is_directory(folder.path))
      throw std::runtime_error(
          fmt::format("{}: expected a folder for the results, found a file", folder.path.string()));
    for (const fs::path& file : {records, environment})
      if (fs::exists(file))
        throw std::runtime_error(fmt::format(
            "{}: expected no earlier run there, found {}; continue it with --resume or choose another -o",
            folder.path.string(), file.filename().string()));
    fs::create_directories(folder.path);
  }
  return folder;
}

// Whether a resumed run keeps a row: an ok one, or one that would be skipped again.
bool is_settled(const Record& record, const CaseSpec& spec, const Registry& registry) {
  const std::string status = record.text("status");
  if (status == "skipped")
    return record.text("reason").starts_with(kRefused) || !absence(spec, registry).empty();
  return status == "ok";
}

// Drops the groups whose cases are all settled. The others are done again whole: what is compared comes from
// one launch. Rank 0 has the records and decides for all.
void drop_settled(Plan& plan, const std::vector<Record>& records, const Registry& registry,
                  Communicator& world) {
  std::map<std::string, const Record*> known;
  for (const Record& record : records) known[record.text("case")] = &record;
  std::vector<uint8_t> settled;
  for (const PlannedGroup& group : plan.groups)
    settled.push_back(std::all_of(group.cases.begin(), group.cases.end(), [&](const PlannedCase& one) {
      const auto found = known.find(one.spec->name);
      return found != known.end() && is_settled(*found->second, *one.spec, registry);
    }));
  world.broadcast(settled.data(), static_cast<int64_t>(settled.size()), 0);
  std::vector<PlannedGroup> left;
  for (size_t i = 0; i < plan.groups.size(); ++i)
    if (!settled[i]) left.push_back(std::move(plan.groups[i]));
  plan.groups = std::move(left);
  mark_repeated(plan.groups);
}

double hang_limit_s(const MeasureOptions& measure, const Plan& plan) {
  if (const char* text = std::getenv("LAMINA_HANG_SECONDS")) {
    const double value = std::atof(text);
    if (value > 0) return value;
  }
  // Nothing is heard of a rank that compresses, or factorises, which may take long: estimates are rough.
  double silent_s = 0;
  for (const PlannedGroup& group : plan.groups)
    for (const PlannedCase& one : group.cases)
      silent_s = std::max({silent_s, one.spec->estimated_compress_s, one.spec->estimated_step_s,
                           one.spec->estimated_quality_s});
  return std::max({600.0, 3 * measure.timeout_seconds, 10 * silent_s});
}

// Every group in turn; rank 0 records what comes of it.
void run_groups(const Plan& plan, const RunOptions& options, const Config& config, const Machine& machine,
                const Registry& registry, Communicator& world, const Folder& folder) {
  const bool speaks = world.rank() == 0;
  const std::string run_id = world.broadcast_text(folder.run_id), launch_id = world.broadcast_text(new_id());
  const std::string started = utc_now();
  double estimated_s = 0;
  int64_t total = 0, done = 0;
  for (const PlannedGroup& group : plan.groups) {
    estimated_s += group.estimated_s;
    total += static_cast<int64_t>(group.cases.size());
  }
  Progress progress(speaks, total, estimated_s);
  std::vector<CeilingValues> ceilings;
  std::vector<NetworkLine> networks;
  const auto write_environment = [&] {
    write_file_atomically(
        (folder.path / "environment.json").string(),
        environment_text(config, machine, registry, world, run_id, launch_id, started, options.command_line,
                         ceilings, networks, folder.previous_environment));
  };
  std::unique_ptr<JsonlWriter> writer;
  if (speaks) {
    std::vector<std::string> warnings = machine.warnings;
    for (const PlannedGroup& group : plan.groups)
      for (const std::string& one : machine.warnings_for(group.ranks, group.threads))
        if (std::find(warnings.begin(), warnings.end(), one) == warnings.end()) warnings.push_back(one);
    for (const std::string& warning : warnings) progress.say("warning: " + warning);
    write_environment();
    writer = std::make_unique<JsonlWriter>((folder.path / "records.jsonl").string());
  }
  Watchdog watchdog(world, hang_limit_s(config.measure, plan));
  std::map<int, std::unique_ptr<Communicator>> subsets;  // which the store's transports refer to
  WeightStore store(machine.launch.default_threads);
  uint64_t seed = config.seed;
  for (const PlannedGroup& group : plan.groups) {
    const int ranks = std::min(group.ranks, world.size());
    ++seed;  // on ranks that sit the group out too: the order of blocks must be the same on all
    if (!subsets.contains(ranks)) subsets[ranks] = world.subset(ranks);
    if (Communicator* comm = subsets[ranks].get()) {
      GroupContext context{registry,
                           machine,
                           config.measure,
                           store,
                           run_id,
                           launch_id,
                           seed,
                           [&](const std::string& place, int cases) {
                             watchdog.beat(place);
                             progress.show(place, done + cases);
                           }};
      const GroupResult result = run_group(group, context, *comm);
      const PlannedGroup* next = &group == &plan.groups.back() ? nullptr : &group + 1;
      if (next == nullptr || !group.keep_weights || next->weights_group != group.weights_group)
        store.clear();
      else if (group.packed_group.empty() || next->packed_group != group.packed_group)
        store.clear_packed();
      // What so many ranks shared, as soon as it is not wanted again.
      const bool last =
          std::none_of(&group + 1, plan.groups.data() + plan.groups.size(),
                       [&](const PlannedGroup& one) { return std::min(one.ranks, world.size()) == ranks; });
      if (last) {
        store.drop_transports(*comm);
        comm->trim();
      }
      if (speaks) {
        progress.clear();
        writer->append(result.records);
        if (result.ceilings) ceilings.push_back(*result.ceilings);
        networks.insert(networks.end(), result.networks.begin(), result.networks.end());
        write_environment();
        for (const Record& record : result.records)
          if (record.text("status") != "ok")
            progress.say(fmt::format("{}: {}: {}", record.text("status"), record.text("case"),
                                     printable(record.text("reason"))));
      }
    }
    // Ranks that sit a group out wait here, as long as it takes, off the others' cores and memory.
    watchdog.pause();
    world.rest();
    watchdog.beat("after " + group.cases.front().spec->name);
    done += static_cast<int64_t>(group.cases.size());
  }
}

}  // namespace

int run(const RunOptions& options, const Registry& registry, Communicator& world) {
  Problems problems;
  const Config config = read_config(options.config_text, options.overrides, options.many, problems);
  Machine machine = inspect_machine(world, config.seed, config.measure.cache);
  Plan plan;
  // Cases are read even beside problems elsewhere in the file, so that every error is said at once.
  plan = make_plan(config, machine, registry, options.filter, problems);
  if (report_problems(options, config, problems, world)) return kExitUsage;
  const bool speaks = world.rank() == 0;
  if (options.dry_run) {
    if (speaks) print_dry_run(plan, machine, config.measure);
    return kExitOk;
  }

  Folder folder;
  std::string failure;
  if (speaks) {
    try {
      folder = open_folder(options, config);
    } catch (const std::exception& e) {
      failure = e.what();
    }
  }
  const Agreement agreement = world.agree(failure);
  if (!agreement.ok) {
    if (speaks) fmt::print(stderr, "lamina: {}\n", printable(failure));
    return kExitUsage;
  }
  const size_t groups = plan.groups.size();
  if (options.resume) drop_settled(plan, folder.records, registry, world);
  if (speaks) {
    for (const std::string& note : plan.notes) fmt::print(stderr, "lamina: {}\n", note);
    if (options.resume) fmt::print(stderr, "lamina: {} of {} groups to go\n", plan.groups.size(), groups);
    fmt::print(stderr, "lamina: results go to {}\n", printable(folder.path.string()));
  }
  for (std::string& warning : busy_warnings(machine, world)) machine.warnings.push_back(std::move(warning));
  run_groups(plan, options, config, machine, registry, world, folder);

  int exit_code = kExitOk;
  if (speaks) {
    const RunRows rows = load_run(folder.path.string(), &failure);
    const std::string table = table_sink().render({rows});
    write_file_atomically((folder.path / "table.md").string(), table);
    fmt::print("{}", table);
    std::fflush(stdout);
    for (const Record& record : rows.records) {
      const std::string status = record.text("status");
      if (status != "ok" && status != "skipped") exit_code = kExitFailed;
    }
  }
  world.broadcast(&exit_code, sizeof exit_code, 0);
  return exit_code;
}

}  // namespace lamina

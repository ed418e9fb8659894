#include "bench/group_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>

#include "distributed/gpu_places.hpp"
#include "kernels/cpu/core_clock.hpp"
#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

constexpr double kUnsteady = 0.15;  // spread of the fp32 rate's blocks that a row should warn of
// A part above the whole by more than this, or a limit above what it limits: one was measured in a bad
// moment.
constexpr double kOverCeiling = 1.05;
// Steps after which a transport has chosen among ways of a collective: faster_way.hpp takes 32 calls.
constexpr int kMostTrials = 64;

// A case on its way from spec to record.
struct Entry {
  const PlannedCase* planned = nullptr;
  std::unique_ptr<PreparedCase> prepared;
  Record record;
  Series all, compute, communicate;
  std::unique_ptr<Replay> replay, compute_replay, communicate_replay;
  std::vector<double> clocks_mhz;      // of the device, after each time it ran
  std::vector<std::string> throttled;  // why it was slower at any of them
  std::string failure;                 // of the device while it was timed
  bool open() const { return prepared != nullptr; }
};

void fail(Entry& entry, const std::string& status, const std::string& reason) {
  entry.record.set("status", status);
  entry.record.set("reason", reason);
  if (entry.planned->spec->forward) entry.record.set("gflops_executed", nullptr);  // without a time, no rate
  for (auto* replay : {&entry.replay, &entry.compute_replay, &entry.communicate_replay}) replay->reset();
  entry.prepared.reset();
}

// What one rank meets alone past set-up ends the job: its last words say where it was.
void at(const std::string& place, const auto& body) {
  try {
    body();
  } catch (const std::exception& e) {
    throw std::runtime_error(fmt::format("{}: {}", place, e.what()));
  }
}

// A case's step as it is timed. An exception's way out costs nothing while none is thrown.
std::function<void()> step_of(const Entry& entry, Part part) {
  return [one = entry.prepared.get(), part, place = "timing " + entry.planned->spec->name] {
    at(place, [&] { one->step(part); });
  };
}

// The device's own timing. What fails there is this rank's alone: the end of the row where there is no other
// rank, of the job where others wait for this one.
std::function<double(int64_t)> replay_of(Entry& entry, Replay& replay, const Communicator& comm) {
  return [&entry, &replay, alone = comm.size() == 1](int64_t iterations) {
    try {
      const double seconds = replay.run(iterations);
      if (Transport* transport = entry.prepared->transport()) transport->poll();
      const DeviceState state = entry.prepared->device_state();
      if (state.clock_mhz > 0) entry.clocks_mhz.push_back(state.clock_mhz);
      for (const std::string& reason : state.throttled)
        if (std::find(entry.throttled.begin(), entry.throttled.end(), reason) == entry.throttled.end())
          entry.throttled.push_back(reason);
      return seconds;
    } catch (const DeviceError& e) {
      if (!alone) throw std::runtime_error(fmt::format("timing {}: {}", entry.planned->spec->name, e.what()));
      entry.failure = e.what();
      return std::numeric_limits<double>::infinity();  // ends the series
    }
  };
}

// Steps until the case's transport has chosen among its ways. False: there was nothing to choose.
bool try_ways(Entry& entry, GroupContext& context, const Communicator& comm) {
  const Transport* used = entry.prepared->transport();
  if (used == nullptr || comm.size() == 1) return false;
  const Part part = entry.prepared->collectives() > 0 ? Part::communicate : Part::all;
  const int64_t first = used->trials();
  int64_t before = -1;
  for (int i = 0; i < kMostTrials && used->trials() != before; ++i) {
    context.progress("trying ways of " + entry.planned->spec->name, 0);
    before = used->trials();
    entry.prepared->step(part);
  }
  return used->trials() != first;
}

void prepare(Entry& entry, GroupContext& context, Communicator& comm) {
  const CaseSpec& spec = *entry.planned->spec;
  entry.record = spec.identity;
  entry.record.set("run_id", context.run_id);
  entry.record.set("launch_id", context.launch_id);
  entry.record.set("nodes", int64_t{comm.nodes()});
  // A node without the device skips for all.
  const Agreement present = comm.agree(absence(spec, context.registry));
  if (!present.ok) return fail(entry, "skipped", present.message);
  try {
    if (comm.size() > 1 && spec.identity.text("device") == "cuda") require_own_gpus(comm);
    context.progress("preparing " + spec.name, 0);
    entry.prepared = spec.prepare(context.store, context.registry, comm);
    context.progress("checking " + spec.name, 0);
    CheckResult check = entry.prepared->check();
    // What is timed goes one way: trials of several end before it, and what comes of them is checked.
    if (check.passed && try_ways(entry, context, comm)) {
      context.progress("checking " + spec.name, 0);
      check = entry.prepared->check();
    }
    context.progress("comparing " + spec.name, 0);
    const std::optional<Quality> quality = entry.prepared->quality();
    entry.prepared->describe(entry.record);
    entry.record.set("check_passed", check.passed);
    entry.record.set("check_error", check.error);
    entry.record.set("check_tolerance", check.tolerance);
    if (quality) {
      entry.record.set("quality_nmse", quality->nmse);
      entry.record.set("quality_cosine", quality->cosine);
      entry.record.set("quality_max_abs", quality->max_abs);
    }
    if (!check.passed) return fail(entry, "invalid", entry.prepared->failure(check));
    const auto capture = [&](Part part, std::unique_ptr<Replay>& replay, Series& series) {
      auto captured = entry.prepared->capture(part);
      replay = std::move(captured.replay);
      series.steps = captured.steps;
    };
    capture(Part::all, entry.replay, entry.all);
    if (!entry.replay || entry.prepared->collectives() == 0 || comm.size() == 1) return;
    capture(Part::compute, entry.compute_replay, entry.compute);
    capture(Part::communicate, entry.communicate_replay, entry.communicate);
  } catch (const NoKernelError& e) {
    fail(entry, "skipped", kRefused + std::string(e.what()));
  } catch (const SkippedCase& e) {
    fail(entry, "skipped", e.what());
  } catch (const AgreedError& e) {
    fail(entry, "error", e.what());
  } catch (const DeviceError& e) {
    if (comm.size() > 1) throw;
    fail(entry, "error", e.what());
  }
}

// Whether all that a step takes goes by its core's clock: what it touches stays in half of the core's own
// cache, wherever it lies in memory. Beyond, the third-level cache and the memory have clocks of their own.
bool goes_by_core(const Entry& entry, const LaunchInfo& launch) {
  if (!entry.planned->spec->forward || entry.record.text("cache") != "hot") return false;
  const Cost cost = entry.prepared->cost();
  return 2 * (cost.read_bytes + cost.write_bytes) <= static_cast<double>(launch.core_cache_bytes);
}

void set_times(Record& record, const Series& series) {
  const std::vector<double>& us = series.samples_us;
  record.set("latency_us_p50", series.p50_us());
  record.set("latency_us_p90", quantile(us, 0.9));
  if (us.size() >= 100) record.set("latency_us_p99", quantile(us, 0.99));
  record.set("latency_us_min", quantile(us, 0));
  double mean = 0;
  for (double value : us) mean += value / static_cast<double>(us.size());
  record.set("latency_us_mean", mean);
  if (series.has_interval()) {
    const Interval interval = series.interval();
    record.set("latency_us_ci_low", interval.low);
    record.set("latency_us_ci_high", interval.high);
  }
  if (const double cycles = series.p50_cycles(); !std::isnan(cycles)) {
    record.set("core_clock_mhz", median(series.block_clocks_mhz));
    record.set("cycles_p50", cycles);
  }
  record.set("samples_us", us);
  record.set("samples", static_cast<int64_t>(us.size()));
  record.set("iterations_per_sample", series.steps_per_sample());
  record.set("stop_reason", series.stop_reason);
}

// The fastest dense case of the group; no time where there is none.
struct Baseline {
  double us = 0;
  std::string name;
};

Baseline fastest_dense(const std::vector<Entry>& entries) {
  Baseline fastest;
  for (const Entry& entry : entries) {
    if (!entry.open() || entry.all.timed_out() || !entry.planned->spec->dense) continue;
    const double us = entry.all.p50_us();
    if (fastest.us == 0 || us < fastest.us) fastest = {us, entry.planned->spec->name};
  }
  return fastest;
}

// What follows from the times of a layer's forward: its parts, rates, and share of the limit. Collective.
void finish_forward(Entry& entry, const Baseline& dense, const CeilingValues& ceilings, Communicator& comm,
                    std::vector<std::string>& warnings) {
  const CaseSpec& spec = *entry.planned->spec;
  Record& record = entry.record;
  const double us = entry.all.p50_us();
  const bool communicates = entry.prepared->collectives() > 0 && comm.size() > 1;
  const double compute_us = communicates ? entry.compute.p50_us() : us;
  record.set("compute_us_p50", compute_us);
  record.set("comm_us_p50", communicates ? entry.communicate.p50_us() : 0.0);
  if (compute_us > us * kOverCeiling) {
    warnings.push_back("its computation alone took longer than all of it: the split is noise");
  } else {
    // The NaN of a part that timed out must stay one, a null: std::max returns its first argument then.
    record.set("comm_exposed_us_p50", std::max(us - compute_us, 0.0));
  }

  if (!entry.clocks_mhz.empty()) {
    record.set("device_clock_mhz", median(entry.clocks_mhz));
    record.set("device_clock_min_mhz", *std::ranges::min_element(entry.clocks_mhz));
    record.set("device_clock_max_mhz", *std::ranges::max_element(entry.clocks_mhz));
    record.set("throttle_reasons", entry.throttled);
  }
  for (const std::string& reason : entry.throttled)
    if (reason != kPowerCap) warnings.push_back("the GPU ran slower than it can: " + reason);

  record.set("tokens_per_s", static_cast<double>(spec.tokens) / us * 1e6);
  record.set("gflops", spec.dense_operations / us * 1e-3);
  record.set("gflops_executed", record.number("gflops_executed") / us * 1e-3);
  record.set("weight_gb_per_s", static_cast<double>(record.integer("weight_bytes")) / us * 1e-3);
  if (dense.us > 0) {
    record.set("speedup_vs_dense", dense.us / us);
    record.set("baseline_case", dense.name);
    if (record.text("scheme").starts_with("lowrank") && us < dense.us)
      record.set("break_even_forwards", record.number("compress_s") * 1e6 / (dense.us - us));
  }

  const Cost cost = entry.prepared->cost();
  ByArithmetic operations;
  for (Arithmetic kind : kArithmetics) operations[kind] = comm.max(cost.operations[kind]);
  const Limit limit = limit_of(ceilings, comm.max(cost.read_bytes + cost.write_bytes), operations,
                               entry.prepared->network_bytes(), entry.prepared->collectives());
  if (record.text("cache") == "cold" && !entry.prepared->cold()) {
    warnings.push_back("not cold: so small that even many copies of its weights stay in the caches");
  } else if (record.text("cache") == "cold") {
    record.set("limit_kind", limit.kind);
    record.set("limit_fraction", limit.us / us);
    if (limit.us / us > kOverCeiling)
      warnings.push_back(
          "faster than the ceiling measured beside it: the machine's speed changed, or "
          "this kernel reads faster than the ceiling's loops");
  }
  if (ceilings.drift > kUnsteady)
    warnings.push_back(
        fmt::format("the machine's speed varied by {:.0f} % in this group", 100 * ceilings.drift));
}

// Everything that follows from the times. Collective.
void finish(Entry& entry, const Baseline& dense, const CeilingValues& ceilings, GroupContext& context,
            Communicator& comm) {
  const CaseSpec& spec = *entry.planned->spec;
  Record& record = entry.record;
  if (!entry.open()) return;
  if (!entry.failure.empty()) return fail(entry, "error", entry.failure);
  if (entry.all.timed_out())
    return fail(entry, "timeout",
                fmt::format("a step, or a sample of several short ones, took longer than "
                            "measure.timeout_seconds ({} s)",
                            context.measure.timeout_seconds));
  set_times(record, entry.all);
  std::vector<std::string> warnings = context.machine.warnings;
  for (const std::string& one : context.machine.warnings_for(spec.ranks, spec.threads))
    warnings.push_back(one);
  // Those of its compression.
  if (const auto* own = std::get_if<std::vector<std::string>>(&record.get("warnings")))
    warnings.insert(warnings.end(), own->begin(), own->end());
  if (spec.forward) finish_forward(entry, dense, ceilings, comm, warnings);
  entry.prepared->summarize(record, entry.all);
  for (const std::string& one : entry.prepared->warnings()) warnings.push_back(one);
  if (const Transport* used = entry.prepared->transport(); used != nullptr && !used->passed_over.empty())
    warnings.push_back(used->passed_over);
  const size_t samples = entry.all.samples_us.size();
  if (entry.all.long_step)
    warnings.push_back(fmt::format("timed {}: a step takes longer than max_seconds",
                                   samples == 1 ? "once" : fmt::format("{} times", samples)));
  else if (static_cast<int64_t>(samples) < context.measure.min_samples)
    warnings.push_back(fmt::format("{} samples, fewer than min_samples, within max_seconds", samples));
  record.set("warnings", warnings);
  record.set("status", std::string("ok"));
}

}  // namespace

std::string absence(const CaseSpec& spec, const Registry& registry) {
  if (!spec.skip_reason.empty()) return spec.skip_reason;
  const std::string device = spec.identity.text("device"), kernel = spec.identity.text("kernel");
  for (const DeviceInfo& info : registry.devices())
    if (info.type == device && !info.available) return device + ": " + info.reason;
  const std::vector<const Kernel*> kernels = registry.kernels(device);
  if (!spec.forward) return "";
  if (kernels.empty()) return fmt::format("no kernel for device {} in this build", device);
  if (kernel == "auto") return "";
  for (const Kernel* one : kernels)
    if (one->name == kernel && one->absent.empty()) return "";
  for (const Kernel* one : kernels)
    if (one->name == kernel) return fmt::format("kernel {}: {}", kernel, one->absent);
  return fmt::format("no kernel {} for device {}", kernel, device);
}

GroupResult run_group(const PlannedGroup& group, GroupContext& context, Communicator& comm) {
  std::vector<Entry> entries(group.cases.size());
  int prepared = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].planned = &group.cases[i];
    at("preparing " + group.cases[i].spec->name, [&] { prepare(entries[i], context, comm); });
    prepared += entries[i].open() ? 1 : 0;
  }

  GroupResult result;
  StopRule rule{context.measure.precision, context.measure.min_samples, context.measure.max_seconds,
                context.measure.timeout_seconds};
  // The parts are means to an end: half the samples and time are enough to tell them apart.
  StopRule part_rule = rule;
  part_rule.min_samples = std::min<int64_t>(rule.min_samples, kBlockSamples * kMinBlocksForInterval);
  part_rule.max_seconds = rule.max_seconds / 4;
  if (prepared > 0) {
    std::vector<Series*> series;
    std::vector<const Entry*> owners;
    for (Entry& entry : entries) {
      if (!entry.open()) continue;
      entry.all.step = step_of(entry, Part::all);
      entry.all.name = entry.compute.name = entry.communicate.name = entry.planned->spec->name;
      if (entry.replay)
        entry.all.timed = replay_of(entry, *entry.replay, comm);
      else if (comm.size() == 1 && group.threads == 1 && goes_by_core(entry, context.machine.launch))
        entry.all.clock_mhz = core_clock_mhz;  // of several cores nobody knows whose clock decides
      entry.all.rule = rule;
      series.push_back(&entry.all);
      if (entry.prepared->collectives() == 0 || comm.size() == 1) continue;
      entry.compute.step = step_of(entry, Part::compute);
      entry.communicate.step = step_of(entry, Part::communicate);
      if (entry.compute_replay) entry.compute.timed = replay_of(entry, *entry.compute_replay, comm);
      if (entry.communicate_replay)
        entry.communicate.timed = replay_of(entry, *entry.communicate_replay, comm);
      entry.compute.rule = entry.communicate.rule = part_rule;
      series.push_back(&entry.compute);
      series.push_back(&entry.communicate);
    }
    std::optional<Ceilings> ceilings;
    if (group.cases.front().spec->forward) {
      Transport* transport = nullptr;
      for (const Entry& entry : entries)
        if (entry.open() && transport == nullptr) transport = entry.prepared->transport();
      try {
        ceilings.emplace(comm, group.threads, context.machine.launch.cache_bytes, rule,
                         *find_device(group.cases.front().spec->identity.text("device")), transport);
      } catch (const DeviceError& e) {  // of a GPU
        if (comm.size() > 1) throw;
        for (Entry& entry : entries)
          if (entry.open()) fail(entry, "error", std::string("measuring the device's limits: ") + e.what());
        series.clear();
      }
    }
    if (ceilings)
      for (Series* probe : ceilings->series()) {
        probe->name = "the machine's limits";
        series.push_back(probe);
      }
    const auto total = static_cast<double>(series.size());
    sample(series, comm, context.seed, [&](int done, const std::string& name) {
      context.progress("timing " + name,
                       static_cast<int>(static_cast<double>(entries.size()) * done / total));
    });
    if (ceilings) result.ceilings = ceilings->values();
  }

  const Baseline dense = fastest_dense(entries);
  for (Entry& entry : entries) {
    at("finishing " + entry.planned->spec->name,
       [&] { finish(entry, dense, result.ceilings.value_or(CeilingValues{}), context, comm); });
    // A baseline that has its row already is recorded again only where it fails this time.
    if (!entry.planned->repeated || entry.record.text("status") != "ok")
      result.records.push_back(std::move(entry.record));
  }
  result.networks = fit_networks(result.records);
  find_payload_wins(result.records);
  if (result.ceilings && !result.ceilings->communicator.empty())
    result.networks.push_back({"all_reduce", result.ceilings->communicator, result.ceilings->device, "f32",
                               true, result.ceilings->device != "cpu", result.ceilings->ranks,
                               result.ceilings->all_reduce_latency_us, result.ceilings->all_reduce_gb_per_s,
                               2});
  return result;
}

}  // namespace lamina

#include "bench/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>
#include <set>

#include "bench/sampler.hpp"

namespace lamina {
namespace {

constexpr double kMemoryShare = 0.8;  // of what is available: the rest is for buffers nobody counts

const KeySpec kWorkload{"workload", "what a case runs: layer, mlp, svd or collective", nullptr};

struct Candidate {
  std::shared_ptr<CaseSpec> spec;
  const WorkloadType* type = nullptr;
  std::shared_ptr<Params> params;
};

const WorkloadType* read_workload(const Params& params) {
  const std::string name = params.string(kWorkload);
  const WorkloadType* type = find_workload(name);
  if (type == nullptr && !name.empty()) {
    std::vector<std::string> known;
    for (const WorkloadType& one : workloads()) known.push_back(one.name);
    const std::string near = nearest_name(name, known);
    params.problem("workload", fmt::format("expected {}, found \"{}\"{}", fmt::join(known, " or "), name,
                                           near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
  }
  return type;
}

std::shared_ptr<CaseSpec> read_case(const Params& params, const WorkloadType& type, const LaunchInfo& launch,
                                    const Registry& registry) {
  auto spec = type.read(params, launch, registry);
  std::vector<KeySpec> keys = type.keys;
  keys.push_back(kWorkload);
  params.report_unread(keys);
  return spec;
}

void check_kernel(const Candidate& candidate, const Registry& registry) {
  const std::string kernel = candidate.spec->identity.text("kernel"),
                    device = candidate.spec->identity.text("device");
  if (kernel == "auto" || !candidate.spec->forward) return;
  std::vector<std::string> known = {"auto"};
  for (const Kernel& one : registry.all_kernels()) {
    if (one.name == kernel) return;
    if (std::find(known.begin(), known.end(), one.name) == known.end()) known.push_back(one.name);
  }
  const std::string near = nearest_name(kernel, known);
  candidate.params->problem("kernel",
                            fmt::format("expected one of {}, found \"{}\"{}", fmt::join(known, ", "), kernel,
                                        near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}

// The same case with dense weights and this kernel.
std::shared_ptr<CaseSpec> dense_twin(const Candidate& candidate, const std::string& kernel,
                                     const LaunchInfo& launch, const Registry& registry) {
  Problems ignored;
  Params params(candidate.params->pointer(), &ignored);
  for (const Params::Entry& entry : candidate.params->entries())
    if (entry.key != "scheme" && entry.key != "kernel") params.set(entry.key, entry.value, entry.pointer);
  auto scheme = std::make_shared<Params>(candidate.params->pointer() + "/scheme", &ignored);
  scheme->set("type", std::string("dense"));
  if (candidate.spec->identity.text("device") == "cuda") scheme->set("dtype", std::string("bf16"));
  params.set("scheme", scheme);
  params.set("kernel", kernel);
  params.mark_read("workload");
  auto spec = read_case(params, *candidate.type, launch, registry);
  if (!spec || !ignored.empty())
    throw std::logic_error("no dense baseline for " + candidate.spec->name + ": " +
                           (ignored.empty() ? "unreadable" : ignored.items().front().message));
  return spec;
}

// Kernels that dense weights can be timed with on this device, the preferred one ("auto") first.
std::vector<std::string> dense_kernels(const Registry& registry, const std::string& device) {
  Leaf dense;
  if (device == "cuda") dense.bits = 16;
  std::vector<std::string> names;
  for (const Kernel* kernel : registry.kernels(device))
    if (kernel->preference > 0 && kernel->absent.empty() && kernel->refuses(dense).empty())
      names.push_back(kernel->name);
  return names;
}

// Names of cases so far, with the groups they stand in: equal points of a sweep (shard none at every `ranks`,
// say) are one case; different ones that the name does not tell apart are numbered.
class CaseNames {
 public:
  // False when this very case was there before.
  bool add(CaseSpec& spec) {
    std::vector<std::string>& seen = groups_[spec.name];
    if (std::find(seen.begin(), seen.end(), spec.group) != seen.end()) return false;
    seen.push_back(spec.group);
    number(spec, seen.size());
    return true;
  }
  // For a case that a filter may have dropped: then it bears the dropped one's name.
  void add_or_find(CaseSpec& spec) {
    std::vector<std::string>& seen = groups_[spec.name];
    const auto found = std::find(seen.begin(), seen.end(), spec.group);
    const auto position = static_cast<size_t>(found - seen.begin());
    if (found == seen.end()) seen.push_back(spec.group);
    number(spec, position + 1);
  }

 private:
  static void number(CaseSpec& spec, size_t count) {
    if (count > 1) spec.name += fmt::format("#{}", count);
    spec.identity.set("case", spec.name);
  }
  std::map<std::string, std::vector<std::string>> groups_;
};

// Dense cases that the group lacks: its speed-ups are against the fastest of all kernels.
std::vector<PlannedCase> missing_baselines(const std::vector<Candidate*>& members, CaseNames& names,
                                           const LaunchInfo& launch, const Registry& registry) {
  std::vector<PlannedCase> missing;
  if (!members.front()->spec->forward) return missing;
  std::string asked = "auto";  // the preferred kernel, as a newcomer would ask for it
  for (const std::string& kernel : dense_kernels(registry, members.front()->spec->identity.text("device"))) {
    const bool found = std::any_of(members.begin(), members.end(), [&](const Candidate* member) {
      const std::string theirs = member->spec->identity.text("kernel");
      return member->spec->dense && (theirs == kernel || theirs == asked);
    });
    if (!found) {
      auto twin = dense_twin(*members.front(), asked == "auto" ? asked : kernel, launch, registry);
      names.add_or_find(*twin);
      missing.push_back({std::move(twin), false});
    }
    asked.clear();
  }
  return missing;
}

int64_t memory_of(const PlannedCase& one) {
  return one.spec->canonical_bytes + one.spec->own_bytes;
}

// Splits one group's cases so that each part fits in memory, the dense baselines in every part.
std::vector<PlannedGroup> fit(const std::vector<PlannedCase>& cases, int64_t budget) {
  PlannedGroup empty;
  const CaseSpec& first = *cases.front().spec;
  empty.ranks = first.ranks;
  empty.threads = first.threads;
  empty.weights_group = first.weights_group;
  empty.packed_group = first.packed_group;
  empty.memory_bytes = first.shared_bytes;
  int64_t passing = 0;  // one case's at a time
  std::vector<PlannedCase> others;
  for (const PlannedCase& one : cases) {
    passing = std::max(passing, one.spec->passing_bytes);
    if (!one.spec->dense) {
      others.push_back(one);
      continue;
    }
    empty.cases.push_back(one);
    empty.memory_bytes += memory_of(one);
  }
  empty.memory_bytes += passing;
  std::vector<PlannedGroup> parts = {empty};
  for (const PlannedCase& one : others) {
    if (parts.back().cases.size() > empty.cases.size() && parts.back().memory_bytes + memory_of(one) > budget)
      parts.push_back(empty);
    parts.back().memory_bytes += memory_of(one);
    parts.back().cases.push_back(one);
  }
  return parts;
}

// The groups of one packed_group. They share packed weights, made for the most tokens of any, where each fits
// in memory whole; else each has its own.
std::vector<PlannedGroup> fit_alike(std::vector<std::vector<PlannedCase>>& groups, int64_t budget) {
  int64_t most = 1;
  for (const auto& cases : groups)
    for (const PlannedCase& one : cases) most = std::max(most, one.spec->tokens);
  const auto size_for = [](CaseSpec& spec, int64_t tokens) {
    spec.own_bytes += spec.token_bytes * (tokens - spec.max_tokens);
    spec.max_tokens = tokens;
  };
  for (const bool shared : {true, false}) {
    std::vector<PlannedGroup> parts;
    for (auto& cases : groups) {
      for (PlannedCase& one : cases) size_for(*one.spec, shared ? most : one.spec->tokens);
      for (PlannedGroup& part : fit(cases, budget)) parts.push_back(std::move(part));
    }
    const bool whole = parts.size() == groups.size() &&
                       std::all_of(parts.begin(), parts.end(),
                                   [&](const PlannedGroup& part) { return part.memory_bytes <= budget; });
    if (whole || !shared) {
      if (!whole)
        for (PlannedGroup& part : parts) part.packed_group.clear();
      return parts;
    }
  }
  return {};
}

// What one weights group's parts take when its canonical weights stay from one to the next.
int64_t memory_with_all_kept(const std::vector<PlannedGroup>& parts) {
  std::map<std::string, int64_t> canonical;
  int64_t largest = 0;
  for (const PlannedGroup& part : parts) {
    int64_t own = part.cases.front().spec->shared_bytes, passing = 0;
    for (const PlannedCase& one : part.cases) {
      canonical[one.spec->identity.text("scheme")] = one.spec->canonical_bytes;
      own += one.spec->own_bytes;
      passing = std::max(passing, one.spec->passing_bytes);
    }
    largest = std::max(largest, own + passing);
  }
  for (const auto& [scheme, bytes] : canonical) largest += bytes;
  return largest;
}

}  // namespace

double estimated_sampling_s(const CaseSpec& spec, const MeasureOptions& measure) {
  const double samples =
      static_cast<double>(std::max<int64_t>(measure.min_samples, kBlockSamples * kMinBlocksForInterval));
  const auto most = static_cast<double>(std::max<int64_t>(kMaxSamples, 4 * measure.min_samples));
  const double long_s = std::max(measure.max_seconds, kLongStepSeconds);
  if (spec.estimated_step_s > long_s)
    return spec.estimated_step_s *
           std::min<double>(kMaxLongSamples, std::ceil(3 * long_s / spec.estimated_step_s));
  const double sample = std::max({spec.estimated_step_s, 2 * kMinSampleSeconds, measure.max_seconds / most});
  return std::min(measure.max_seconds, samples * sample) + spec.estimated_step_s * samples / kBlockSamples;
}

int64_t mark_repeated(std::vector<PlannedGroup>& groups) {
  std::set<std::string> seen;
  for (PlannedGroup& group : groups)
    for (PlannedCase& one : group.cases) one.repeated = !seen.insert(one.spec->name).second;
  return static_cast<int64_t>(seen.size());
}

Plan make_plan(const Config& config, const Machine& machine, const Registry& registry,
               const std::string& filter, Problems& problems) {
  Plan plan;
  std::vector<Candidate> candidates;
  for (const CaseParams& one : config.cases) {
    Candidate candidate;
    candidate.params = one.params;
    candidate.type = read_workload(*one.params);
    if (candidate.type == nullptr) continue;
    candidate.spec = read_case(*one.params, *candidate.type, machine.launch, registry);
    if (!candidate.spec) continue;
    check_kernel(candidate, registry);
    candidates.push_back(std::move(candidate));
  }
  if (!problems.empty()) return plan;

  const std::regex pattern(filter, std::regex::ECMAScript);
  CaseNames names;
  std::vector<std::string> group_order;
  std::map<std::string, std::vector<Candidate*>> groups;
  int64_t duplicates = 0;
  for (Candidate& candidate : candidates) {
    CaseSpec& spec = *candidate.spec;
    if (!names.add(spec)) {
      ++duplicates;
      continue;
    }
    if (!filter.empty() && !std::regex_search(spec.name, pattern)) continue;
    if (!groups.contains(spec.group)) group_order.push_back(spec.group);
    groups[spec.group].push_back(&candidate);
  }
  if (duplicates > 0)
    plan.notes.push_back(
        fmt::format("{} cases of the sweep are the same as others and run once", duplicates));
  if (group_order.empty()) {
    problems.add(
        "", fmt::format(
                "expected --filter to find a case, found none that `{}` matches; --dry-run lists the names",
                filter));
    return plan;
  }

  const auto budget_for = [&](int ranks) {
    return static_cast<int64_t>(kMemoryShare * static_cast<double>(machine.available_bytes_for(ranks)));
  };
  // Groups follow one another that share original weights, and among them those that share packed ones.
  std::vector<std::string> weights_order;
  std::map<std::string, std::vector<std::string>> packed_order;  // by weights group
  std::map<std::string, std::vector<std::vector<PlannedCase>>> by_packed;
  for (const std::string& key : group_order) {
    const std::vector<Candidate*>& members = groups[key];
    const CaseSpec& first = *members.front()->spec;
    std::vector<PlannedCase> cases;
    for (const Candidate* member : members) cases.push_back({member->spec, false});
    for (PlannedCase& one : missing_baselines(members, names, machine.launch, registry))
      cases.push_back(std::move(one));
    const int64_t budget = budget_for(first.ranks);
    int64_t shared = first.shared_bytes;
    int64_t passing = 0;
    for (const PlannedCase& one : cases) {
      shared += one.spec->dense ? memory_of(one) : 0;
      passing = std::max(passing, one.spec->passing_bytes);
    }
    for (const Candidate* member : members) {
      const CaseSpec& spec = *member->spec;
      const int64_t alone = shared + passing + (spec.dense ? 0 : spec.canonical_bytes + spec.own_bytes);
      if (alone > budget)
        problems.add(
            spec.pointer,
            fmt::format("{} needs about {:.1f} GiB a rank{}, found {:.1f} GiB available to each; take more "
                        "ranks or nodes{}",
                        spec.name, static_cast<double>(alone) / (1 << 30),
                        spec.forward ? " with its dense baselines" : "",
                        static_cast<double>(budget) / (1 << 30),
                        spec.forward ? ", fewer tokens, or \"cache\": \"hot\"" : ", or a lower rank"));
    }
    if (!packed_order.contains(first.weights_group)) weights_order.push_back(first.weights_group);
    if (!by_packed.contains(first.packed_group))
      packed_order[first.weights_group].push_back(first.packed_group);
    by_packed[first.packed_group].push_back(std::move(cases));
  }
  for (const std::string& key : weights_order) {
    std::vector<PlannedGroup> parts;
    const int64_t budget = budget_for(by_packed[packed_order[key].front()].front().front().spec->ranks);
    for (const std::string& packed : packed_order[key])
      for (PlannedGroup& part : fit_alike(by_packed[packed], budget)) parts.push_back(std::move(part));
    const int64_t largest = memory_with_all_kept(parts);
    const bool keep = largest <= budget;
    std::set<std::string> made, packed;
    for (PlannedGroup& part : parts) {
      part.keep_weights = keep;
      if (keep) part.memory_bytes = std::max(part.memory_bytes, largest);
      for (const PlannedCase& one : part.cases) {
        part.estimated_s += estimated_sampling_s(*one.spec, config.measure);
        if (!keep || !one.spec->forward || made.insert(one.spec->identity.text("scheme")).second)
          part.estimated_s += one.spec->estimated_compress_s;
        if (part.packed_group.empty() || packed
                                             .insert(part.packed_group + one.spec->identity.text("scheme") +
                                                     one.spec->identity.text("kernel"))
                                             .second)
          part.estimated_s += one.spec->estimated_pack_s;
      }
      plan.groups.push_back(std::move(part));
    }
  }
  plan.cases = mark_repeated(plan.groups);
  return plan;
}

}  // namespace lamina

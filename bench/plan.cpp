#include "bench/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "bench/sampler.hpp"

namespace lamina {
namespace {

constexpr double kMemoryShare = 0.8;  // of what is available: the rest is for buffers nobody counts

const KeySpec kWorkload{"workload", "what a case runs: layer or mlp", nullptr};

struct Candidate {
  std::unique_ptr<CaseSpec> spec;
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

std::unique_ptr<CaseSpec> read_case(const Params& params, const WorkloadType& type, const LaunchInfo& launch,
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
  if (kernel == "auto") return;
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

// The same case with dense weights, for a group that has none of its own.
std::unique_ptr<CaseSpec> dense_twin(const Candidate& candidate, const LaunchInfo& launch,
                                     const Registry& registry) {
  Problems ignored;
  Params params(candidate.params->pointer(), &ignored);
  for (const Params::Entry& entry : candidate.params->entries())
    if (entry.key != "scheme" && entry.key != "kernel") params.set(entry.key, entry.value, entry.pointer);
  auto scheme = std::make_shared<Params>(candidate.params->pointer() + "/scheme", &ignored);
  scheme->set("type", std::string("dense"));
  params.set("scheme", scheme);
  params.mark_read("workload");
  auto spec = read_case(params, *candidate.type, launch, registry);
  if (!spec || !ignored.empty())
    throw std::logic_error("no dense baseline for " + candidate.spec->name + ": " +
                           (ignored.empty() ? "unreadable" : ignored.items().front().message));
  return spec;
}

int64_t memory_alone(const CaseSpec& spec) {
  return spec.shared_bytes + spec.canonical_bytes + spec.own_bytes;
}

// Splits one group's cases so that each part fits in memory, the baseline in every part's sum.
std::vector<PlannedGroup> fit(std::vector<PlannedCase> cases, int64_t budget) {
  std::vector<PlannedGroup> parts;
  for (PlannedCase& one : cases) {
    const int64_t more = one.spec->canonical_bytes + one.spec->own_bytes;
    if (parts.empty() || parts.back().memory_bytes + more > budget) {
      PlannedGroup part;
      part.ranks = one.spec->ranks;
      part.threads = one.spec->threads;
      part.weights_group = one.spec->weights_group;
      part.memory_bytes = one.spec->shared_bytes;
      parts.push_back(std::move(part));
    }
    parts.back().memory_bytes += more;
    parts.back().cases.push_back(std::move(one));
  }
  return parts;
}

}  // namespace

double estimated_sampling_s(const CaseSpec& spec, const MeasureOptions& measure) {
  const double samples =
      static_cast<double>(std::max<int64_t>(measure.min_samples, kBlockSamples * kMinBlocksForInterval));
  const double sample = std::max(spec.estimated_step_s, 2 * kMinSampleSeconds);
  return std::min(measure.max_seconds, samples * sample) + spec.estimated_step_s * samples / kBlockSamples;
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

  // Equal points of a sweep (shard none at every `ranks`, say) are one case; different ones that the name
  // does not tell apart are numbered.
  const std::regex pattern(filter, std::regex::ECMAScript);
  std::map<std::string, std::vector<std::string>> identities;  // name → groups seen
  std::vector<std::string> group_order;
  std::map<std::string, std::vector<Candidate*>> groups;
  int64_t duplicates = 0;
  for (Candidate& candidate : candidates) {
    CaseSpec& spec = *candidate.spec;
    std::vector<std::string>& seen = identities[spec.name];
    if (std::find(seen.begin(), seen.end(), spec.group) != seen.end()) {
      ++duplicates;
      candidate.spec.reset();
      continue;
    }
    seen.push_back(spec.group);
    if (seen.size() > 1) spec.name += fmt::format("#{}", seen.size());
    spec.identity.set("case", spec.name);
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

  const auto budget = static_cast<int64_t>(kMemoryShare * static_cast<double>(machine.available_bytes));
  std::vector<std::string> weights_order;
  std::map<std::string, std::vector<PlannedGroup>> by_weights;
  for (const std::string& key : group_order) {
    std::vector<Candidate*>& members = groups[key];
    std::vector<PlannedCase> cases;
    const bool has_dense =
        std::any_of(members.begin(), members.end(), [](Candidate* c) { return c->spec->dense; });
    const std::string weights_group = members.front()->spec->weights_group;
    if (!has_dense) {
      auto twin = dense_twin(*members.front(), machine.launch, registry);
      // A filter may have dropped the config's own dense case: then the twin bears its name.
      std::vector<std::string>& seen = identities[twin->name];
      const auto found = std::find(seen.begin(), seen.end(), twin->group);
      const auto position = found - seen.begin();
      if (found == seen.end()) seen.push_back(twin->group);
      if (position > 0) twin->name += fmt::format("#{}", position + 1);
      twin->identity.set("case", twin->name);
      cases.push_back({std::move(twin), false});
    }
    for (Candidate* member : members) cases.push_back({std::move(member->spec), false});
    for (const PlannedCase& one : cases)
      if (memory_alone(*one.spec) > budget)
        problems.add(
            one.spec->pointer,
            fmt::format("{} needs about {:.1f} GiB a rank, found {:.1f} GiB available to each; take more "
                        "ranks or nodes, fewer tokens, or \"cache\": \"hot\"",
                        one.spec->name, static_cast<double>(memory_alone(*one.spec)) / (1 << 30),
                        static_cast<double>(budget) / (1 << 30)));
    if (!by_weights.contains(weights_group)) weights_order.push_back(weights_group);
    for (PlannedGroup& part : fit(std::move(cases), budget))
      by_weights[weights_group].push_back(std::move(part));
  }
  for (const std::string& key : weights_order) {
    std::vector<PlannedGroup>& parts = by_weights[key];
    // Keep canonical weights from one group to the next only where all of them fit at once.
    std::map<std::string, int64_t> canonical;
    int64_t largest = 0;
    for (const PlannedGroup& part : parts) {
      int64_t own = 0;
      for (const PlannedCase& one : part.cases) {
        canonical[one.spec->identity.text("scheme")] = one.spec->canonical_bytes;
        own += one.spec->own_bytes;
      }
      largest = std::max(largest, own + part.cases.front().spec->shared_bytes);
    }
    for (const auto& [scheme, bytes] : canonical) largest += bytes;
    const bool keep = largest <= budget;
    std::set<std::string> made;
    for (PlannedGroup& part : parts) {
      part.last_of_weights = !keep || &part == &parts.back();
      if (keep) part.memory_bytes = std::max(part.memory_bytes, largest);
      for (const PlannedCase& one : part.cases) {
        part.estimated_s += estimated_sampling_s(*one.spec, config.measure);
        if (made.insert(one.spec->identity.text("scheme")).second || !keep)
          part.estimated_s += one.spec->estimated_prepare_s;
        ++plan.cases;
      }
      plan.groups.push_back(std::move(part));
    }
  }
  return plan;
}

}  // namespace lamina

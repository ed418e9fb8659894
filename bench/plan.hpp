// From a config to groups of cases, in the order they run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/config.hpp"
#include "bench/machine.hpp"
#include "bench/workload.hpp"
#include "kernels/registry.hpp"

namespace lamina {

struct PlannedCase {
  std::shared_ptr<CaseSpec> spec;
  bool repeated = false;  // recorded with an earlier group: timed again as the baseline of this one
};

// Cases that are measured together, interleaved, with the dense baselines (one a kernel) among them. All of
// one weights group.
struct PlannedGroup {
  std::vector<PlannedCase> cases;
  int ranks = 1, threads = 1;
  std::string weights_group;
  std::string packed_group;  // the next group of the same one takes over the packed weights; empty: none does
  int64_t memory_bytes = 0;  // of the rank with most
  double estimated_s = 0;
  bool keep_weights = false;  // originals and canonical ones stay for the next of the same weights_group
};

struct Plan {
  std::vector<PlannedGroup> groups;
  int64_t cases = 0;
  std::vector<std::string> notes;  // duplicates dropped, baselines added
};

// Reads every case with its workload, adds missing dense baselines, drops what `filter` does not find, and
// checks memory. Problems are collected; the plan is usable when there are none. Deterministic: the same on
// every rank.
Plan make_plan(const Config& config, const Machine& machine, const Registry& registry,
               const std::string& filter, Problems& problems);

// Marks cases that an earlier group has. Returns how many cases there are without them.
int64_t mark_repeated(std::vector<PlannedGroup>& groups);

// Seconds that a case takes to measure, by its rough step time.
double estimated_sampling_s(const CaseSpec& spec, const MeasureOptions& measure);

}  // namespace lamina

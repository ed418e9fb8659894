// Measures one group: prepare, check, sample interleaved with the ceilings, and make records.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/ceilings.hpp"
#include "bench/network.hpp"
#include "bench/plan.hpp"
#include "bench/weight_store.hpp"

namespace lamina {

struct GroupContext {
  const Registry& registry;
  const Machine& machine;
  const MeasureOptions& measure;
  WeightStore& store;
  std::string run_id, launch_id;
  uint64_t seed = 1;
  // Called often: with where the run is, and how many cases of the group are done.
  std::function<void(const std::string&, int)> progress;
};

// Why the case cannot run in this launch: ranks, device or kernel that are not there. Empty when it can.
std::string absence(const CaseSpec& spec, const Registry& registry);
// Begins the reason of a case that is skipped because no kernel takes its weights: in any launch.
inline constexpr const char* kRefused = "no kernel takes it: ";

struct GroupResult {
  std::vector<Record> records;            // of its cases, in order
  std::vector<NetworkLine> networks;      // of its collectives, or of what its layers move data with
  std::optional<CeilingValues> ceilings;  // none where every case was skipped, or no case runs layers
};

// Collective over `comm`, the group's ranks; the same on every rank but for timings' last digits.
// AgreedErrors become rows; anything else a case throws is not agreed on and ends the job (it
// propagates, with the place and the case before its message).
GroupResult run_group(const PlannedGroup& group, GroupContext& context, Communicator& comm);

}  // namespace lamina

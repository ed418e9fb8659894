// The keys that say where and how a case runs, shared by the workloads that run layers.
#pragma once

#include <string>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"
#include "kernels/weights/model.hpp"

namespace lamina {

struct Placement {
  std::string device, kernel, communicator, cache;
  bool named_communicator = false;  // among ranks, by name rather than `auto`: case names tell
  int ranks = 1, threads = 1;
};

// device, kernel, ranks, threads, communicator, cache.
const std::vector<KeySpec>& placement_keys();
// device, ranks, threads, communicator: of a case that moves data and multiplies nothing.
const std::vector<KeySpec>& mover_keys();
// model, layer_index, weights and the synthetic generator's.
const std::vector<KeySpec>& source_keys();
const KeySpec& ranks_key();
const KeySpec& threads_key();
const KeySpec& tokens_key();
const KeySpec& scheme_key();

// `alone`: the case runs on rank 0 by itself, whatever `ranks` says.
Placement read_placement(const Params& params, const LaunchInfo& launch, bool alone);
// Of mover_keys() alone.
Placement read_movers(const Params& params, const LaunchInfo& launch);
// A problem in `params` where no transport has this name and device.
void check_communicator(const Params& params, const std::string& name, const std::string& device);
// Of a scheme's own object, and of the one that `scheme` names. Null after a problem.
std::unique_ptr<Scheme> make_scheme(const Params& params, Shape shape, const Registry& registry);
std::unique_ptr<Scheme> read_scheme(const Params& params, Shape shape, const Registry& registry);

// A LayerRef of a model's layer, with weights, tensors and statistics from the keys.
LayerRef read_layer_ref(const Params& params, const std::string& label, const ModelLayer& layer,
                        const LaunchInfo& launch);

// Fills what every layer case's spec has: identity, name, groups, memory and time estimates. The name is
// WORKLOAD/WHAT/mTOKENS/SCHEME/DEVICE-KERNEL/SHARD/pRANKStTHREADS/CACHE,
// SHARD with "-bf16" where sums are in that and "-o4" where 4 chunks of them overlap products.
struct SpecParts {
  std::string workload, what, model, layer_name, shard;
  std::vector<LayerRef> layers;
  std::vector<const Scheme*> schemes;  // one a layer
  int64_t in_features = 0, out_features = 0;
  int64_t overlap = 1;    // of products and their sums
  std::string sum_dtype;  // of the sums; empty: none
};
void fill_spec(CaseSpec& spec, const SpecParts& parts, const Placement& placement, const Params& params,
               const LaunchInfo& launch, const Registry& registry, int64_t tokens);

// Bytes of packed weights that a rank steps through before it meets the same ones again: together the node's
// ranks exceed four times its last-level caches. 0 for a hot case.
int64_t cold_bytes(const Placement& placement, const LaunchInfo& launch);
// Copies of `packed_bytes` that make up `cold_bytes`, within a bound that keeps tiny layers from taking for
// ever.
int copies_for(int64_t cold_bytes, double packed_bytes);

}  // namespace lamina

// The keys that name one layer of a model, or one matrix by its sizes, shared by the workloads that take one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"
#include "kernels/weights/model.hpp"

namespace lamina {

struct OneLayer {
  std::string model;  // empty where sizes were given
  ModelLayer layer;
  LayerRef ref;
};

// layer, in_features, out_features, tensor.
const std::vector<KeySpec>& one_layer_keys();
// Reads them, and source_keys(); opens the file of weights, so that a bad one is said before anything runs. A
// layer whose weights cannot be had is a problem in `params`; none is returned where not even its shape is
// known.
std::optional<OneLayer> read_one_layer(const Params& params, const LaunchInfo& launch);

}  // namespace lamina

// What the cases of `layer` and `mlp` share: the description of their sharded layers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/workload.hpp"
#include "distributed/compress.hpp"
#include "distributed/sharded_layer.hpp"

namespace lamina {

// Sizes, kernel, isa, data types and compression of the layers, as the record shows them. Collective.
void describe_layers(Record& record, const std::vector<ShardedLayer*>& layers,
                     const std::vector<std::shared_ptr<const CompressedWeights>>& weights, int64_t tokens);

Cost add(const Cost& a, const Cost& b);

}  // namespace lamina

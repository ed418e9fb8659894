// What the cases of `layer` and `mlp` share: the description of their sharded layers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"

namespace lamina {

// Sizes, kernel, isa, data types, rank and compression of the layers, as the record shows them; joined by "+"
// where layers differ. Collective.
void describe_layers(Record& record, const std::vector<PackedLayer*>& layers, int64_t tokens);

// What a layer's collectives move, as payload of all-reduces of the same cost: gathering or scattering moves
// half.
double all_reduced_bytes(const ShardedLayer& layer, int64_t tokens);

// Copies the packed weights of layers that run one after the other until an average rank has `cold_bytes` of
// them (0: one copy). Returns whether it has: copies are bounded. Collective.
bool replicate_cold(const std::vector<ShardedLayer*>& layers, int64_t cold_bytes);

// Chunks of tokens whose sums overlap products.
const KeySpec& overlap_key();

}  // namespace lamina

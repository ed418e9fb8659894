// What the cases of `layer` and `mlp` share: describing their sharded layers, and running them on tokens.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"

namespace lamina {

// Sizes, kernel, isa, data types, rank and compression of the layers, as the record shows them; joined by "+"
// where layers differ. Collective.
void describe_layers(Record& record, const std::vector<PackedLayer*>& layers, int64_t tokens);

// The layers' promise that is nearest to its bound.
Promise promise_of(const std::vector<PackedLayer*>& layers);

// What a layer's collectives move, as payload of all-reduces of the same cost: gathering or scattering moves
// half.
double all_reduced_bytes(const ShardedLayer& layer, int64_t tokens);

// Copies the packed weights of layers that run one after the other until an average rank has `cold_bytes` of
// them (0: one copy). Returns whether it has: copies are bounded. Collective.
bool replicate_cold(const std::vector<ShardedLayer*>& layers, int64_t cold_bytes);

// This rank's part of `tokens` of the inputs, on the layer's device in the type that it reads. Collective.
Buffer place_inputs(ShardedLayer& layer, const Matrix<float>& inputs, Range tokens);

// The first `tokens` rows of a layer's inputs.
Matrix<float> first_tokens(const Matrix<float>& inputs, int64_t tokens);

// What layers from `first` to `last` make of the first `wanted` tokens of `inputs`, `tokens` at a time, by
// forward(x, count) into `y`: [wanted × last's N] on every rank. Collective.
Matrix<float> quality_outputs(ShardedLayer& first, ShardedLayer& last, const Matrix<float>& inputs,
                              int64_t wanted, int64_t tokens, const Buffer& y,
                              const std::function<void(const Buffer& x, int64_t count)>& forward);

// Chunks of tokens whose sums overlap products.
const KeySpec& overlap_key();
// What sums over ranks are sent in.
const KeySpec& sum_dtype_key();

}  // namespace lamina

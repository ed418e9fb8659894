// The keys that name files of recorded activations and of compressed weights, shared by the workloads that
// run layers.
#pragma once

#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"

namespace lamina {

// inputs, inputs_tensor, compressed, quality_tokens.
const std::vector<KeySpec>& recorded_keys();
// cotangents, cotangents_tensor.
const std::vector<KeySpec>& cotangent_keys();

// Reads recorded_keys() but `compressed` into `ref`, and cotangent_keys() where `cotangents`. A file that
// lacks what `calibration` tokens of a scheme and `tokens` to measure on need is a problem in `params`.
void read_recorded(const Params& params, LayerRef& ref, bool cotangents, int64_t calibration, int64_t tokens);

// Reads `compressed` into `refs`. A file that lacks one of them by its scheme is a problem in `params`; dense
// schemes need none.
void read_compressed(const Params& params, const std::vector<LayerRef*>& refs,
                     const std::vector<const Scheme*>& schemes);

}  // namespace lamina

// What an mlp's down projection reads: calibration by what the block before it makes of its own inputs.
#pragma once

#include "distributed/compress.hpp"

namespace lamina {

// silu(g)·u of `tokens` tokens of `inputs`, [tokens × N/2], the same bits on every rank and on any number of
// them, where rows [0, N/2) of the weights make g and the others u. Collective; AgreedError where a token
// cannot be read.
Matrix<float> gated_inputs(const OriginalWeights& gate_up, const Calibration& inputs, int64_t tokens,
                           Communicator& comm, int threads);

}  // namespace lamina

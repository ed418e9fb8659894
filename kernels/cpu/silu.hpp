// The gated activation between an MLP's projections.
#pragma once

#include <cstdint>

namespace lamina {

// h[t][i] = silu(g)·u with silu(g) = g / (1 + e^−g), where row t of gate_up [tokens × 2·width] is the gates,
// then the ups. h: [tokens × width]. Relative error of the exponential below 4e-7; never NaN for finite
// input.
void silu_gate(const float* gate_up, float* h, int64_t tokens, int64_t width, int threads);

}  // namespace lamina

// The arithmetic of reductions: what several ranks have, element by element, into one.
#pragma once

#include <cstdint>

#include "distributed/communicator.hpp"

namespace lamina {

// out[i] = op of in[0][i], in[1][i], …, in that order, so that every rank that combines the same parts gets
// the same bits. float16 and bfloat16 add up in float32 and are rounded once; integers wrap around. `out` may
// be one of the inputs, but may not overlap one otherwise. Does not allocate.
void combine(const void* const* in, int inputs, void* out, int64_t count, DType dtype, ReduceOp op);

}  // namespace lamina

// The Gram matrix for filters, which ask for directions: each rank has its own rows of it.
#pragma once

#include "distributed/svd/panels.hpp"

namespace lamina::svd {

// This rank's rows of AᵀA of the smaller side [own × small side], times a power of two that brings the
// largest element of the diagonal to between 1/4 and 1, in float32: of products over kRowBlock of the longer
// side in float32, or, `coarse`, of numbers rounded to bfloat16 (coarse.hpp), which are summed exactly as
// multiples of 2^-30 of the norms. One half is summed, each rank's part by itself, and the other is sent:
// 2·s² bytes and 2·s²/P. Bitwise the same for any number of ranks and threads, and
// layouts, but for a square A, where these choose the side. Collective.
Matrix<float> gram_rows(const Input& input, TimedCommunicator& comm, int threads, bool coarse);

// What it takes on a rank, what it returns included.
int64_t gram_rows_bytes(Shape shape, int ranks, int threads, bool coarse);

}  // namespace lamina::svd

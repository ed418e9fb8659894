// A few leading eigenpairs of a large symmetric matrix, all work shared by the ranks.
#pragma once

#include <cstdint>

#include "distributed/svd/symmetric.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// Whether filtered_eigen() is worth a try: of a part of the spectrum this small it is the fastest.
bool is_few(int64_t rank, int64_t size);

// About the first `rank` eigenpairs of a positive semidefinite matrix, of which each rank has `rows`, its
// share of whole blocks of kRowBlock, in float32; the largest element of the diagonal is between 1/4 and 2.
// By subspace iteration with Chebyshev filters (Rutishauser 1969; Zhou, Saad, Tiago, Chelikowsky 2006,
// "Parallel self-consistent-field calculations via Chebyshev-filtered subspace acceleration"): until what is
// left of the trace is, by the rate it shrinks at, within 5·10⁻⁵ of the least. `values` are these pairs'
// alone, to float32's precision of the largest. No pairs where that takes long, or the spectrum falls too
// steeply for float32 products: use another solver then. Vectors are orthonormal to float64's precision and
// bitwise the same for any number of ranks and threads. Each of some 10 products takes 2·size²·1.5·rank
// operations in float32, of all ranks together, and gathers 6·size·rank bytes. Collective.
Eigenpairs filtered_eigen(Matrix<float>&& rows, int64_t rank, uint64_t seed, Communicator& comm, int threads);

// What it takes on a rank, its rows included.
int64_t filtered_eigen_bytes(int64_t size, int64_t rank, int ranks, int threads);

}  // namespace lamina::svd

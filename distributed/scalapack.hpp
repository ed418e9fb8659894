// ScaLAPACK and ELPA, where they are built; else absent/ says why not. Nothing of MPI shows here.
#pragma once

#include <string>

#include "distributed/svd.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

// Why it is absent; empty where it is built.
std::string scalapack_absent();
std::string elpa_absent();

// What moves at a time lies in buffers of so much on each rank, beside both parts.
inline constexpr int64_t kMoveBytes = int64_t{64} << 20;

// To or from block-cyclic, by psgemr2d. Collective. AgreedError where absent, or the grid does not fit.
SpreadMatrix scalapack_redistribute(Shape shape, const Distribution& from, const Matrix<float>& local,
                                    const Distribution& to, Communicator& comm, int threads);

// Of a matrix that every rank holds, in 2D block-cyclic pieces over all ranks. Last bits depend on the ranks.
// Collective. AgreedError where absent or failed.
Eigenpairs scalapack_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm,
                           int threads);
Eigenpairs elpa_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm, int threads);
// Bytes of a rank at most, beyond the tiles, vectors included.
int64_t scalapack_eigen_bytes(int64_t size, int64_t rank, int ranks);
int64_t elpa_eigen_bytes(int64_t size, int64_t rank, int ranks);

}  // namespace lamina::svd

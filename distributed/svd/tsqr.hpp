// Householder QR of a tall matrix that is spread over ranks: slower than Cholesky QR, and sure.
#pragma once

#include "distributed/communicator.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// T = Q·R, T [m × l] spread by rows. c = min(m, l).
struct TallQr {
  Matrix<double> q;  // [this rank's rows × c]: orthonormal columns, whatever T's rank
  Matrix<double> r;  // [c × l], upper triangular, on every rank
};

// TSQR with a tree of one level (Demmel, Grigori, Hoemmen, Langou 2012, "Communication-optimal parallel and
// sequential QR and LU factorizations"): Householder QR of leaves at fixed places of the whole matrix, then
// of their R factors on top of each other. Bitwise the same for any number of ranks and threads. Leaves are
// of at least 4·l rows, and rows travel to the rank that has their leaf and back: 8·m·l bytes each way over
// all ranks, 4·m·l² operations shared by as many ranks as there are leaves, and up to m·l² on rank 0.
// Collective. `tall` is finite. AgreedError when LAPACK fails.
TallQr tsqr(const Matrix<double>& tall, Communicator& comm, int threads);

}  // namespace lamina::svd

// Most eigenvectors of a small symmetric matrix, the work shared by ranks where it can be.
#pragma once

#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

// As lapack_eigen(), for a rank of most of the size: all of the tridiagonal matrix's eigenvectors by divide
// and conquer (LAPACK's dstedc), which beats finding most of them one by one, and turned back from it in
// columns of fixed numbers, shared among the ranks. Rank 0 alone takes about 4/3·l³ + some l³ operations for
// the two, all of them together 2·l²·r for the turn. Bitwise the same for any number of ranks.
Eigenpairs sketch_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm);

// Numbers of workspace, which LAPACK counts in 32 bits: enough for a size of 46 338.
int64_t sketch_eigen_work(int64_t size);

}  // namespace lamina::svd

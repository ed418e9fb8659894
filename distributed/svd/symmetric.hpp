// Symmetric matrices by the tiles of their upper triangle, and their leading eigenvectors.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// [size × size], of which the tiles on and above the diagonal are stored one after the other, row by row,
// each row-major: one run of memory, half of the whole.
class SymmetricTiles {
 public:
  explicit SymmetricTiles(int64_t size = 0);
  static constexpr int64_t kSide = 256;

  int64_t size() const { return size_; }
  int64_t tiles() const { return (size_ + kSide - 1) / kSide; }
  int64_t side(int64_t tile) const { return std::min(kSide, size_ - tile * kSide); }
  double* tile(int64_t row, int64_t col) { return data.data() + offset(row, col); }  // row ≤ col
  const double* tile(int64_t row, int64_t col) const { return data.data() + offset(row, col); }
  // Elements of rows × cols, both halves, into to[i·stride + j].
  void copy(Range rows, Range cols, double* to, int64_t stride) const;

  PagedVector<double> data;

 private:
  int64_t offset(int64_t row, int64_t col) const {
    // Tiles of a row have its height together, and rows above are whole: the trapezoid row by row.
    const int64_t above = row * kSide;
    return above * size_ - row * (row - 1) / 2 * kSide * kSide + side(row) * (col - row) * kSide;
  }
  int64_t size_;
};

// Eigenvalues of all, largest first; the eigenvectors of the first r.
struct Eigenpairs {
  std::vector<double> values;
  Matrix<double> vectors;  // [r × size], one a row, on every rank
};
// r, from all eigenvalues: the same on every rank. A solver that must know it first asks with all of them 0,
// for the most that r may be.
using ChooseRank = std::function<int64_t(const std::vector<double>& values)>;

// By LAPACK on rank 0 and its threads' BLAS… see lapack_eigen.cpp. Consumes the matrix. Collective;
// AgreedError when LAPACK fails or a size is past its 32-bit counts.
Eigenpairs lapack_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm, int threads);

}  // namespace lamina::svd

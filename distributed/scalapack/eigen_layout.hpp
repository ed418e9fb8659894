// What the distributed eigensolvers share: the matrix in 2D block-cyclic pieces, and its vectors back whole.
#pragma once

#include <vector>

#include "distributed/scalapack/layout.hpp"
#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

// The squarest grid of so many ranks, and of ScaLAPACK's transpose the one with fewer rows than columns: on
// two ranks its reduction takes 0.50 s by 1 × 2 and 0.65 s by 2 × 1 (2048 rows).
Distribution squarest(int ranks, int64_t block);

// A symmetric matrix, and the vectors that its solver leaves, in blocks over all ranks.
struct BlockCyclic {
  BlockCyclic(int64_t size_, int64_t block, Communicator& comm);
  // This rank's blocks times `sign`, column-major [rows × cols]. Frees the tiles.
  std::vector<double> take(SymmetricTiles&& matrix, double sign) const;
  // Of `count` vectors, the columns that this rank has a part of.
  int64_t vector_cols(int64_t count) const;
  // The first `count` of vectors [size × width] that lie like this (column-major), one a row, on every rank.
  // Collective.
  Matrix<double> gather(const std::vector<double>& vectors, int64_t width, int64_t count,
                        Communicator& comm) const;

  int64_t size;
  Distribution distribution;
  Grid grid;
  int64_t rows, cols;  // of this rank
  Descriptor descriptor;
};

}  // namespace lamina::svd

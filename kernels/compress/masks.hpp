// Which weights stay.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/compress/calibrator.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// How many of `count` stay.
int64_t kept_of(int64_t count, double sparsity);

// What ranks weights beside |w_ij|; at most one is given, none for magnitude.
struct Importance {
  // [cols]: |w_ij|·√loud_j (Wanda: Sun, Liu, Bair, Kolter 2023).
  std::vector<double> loud;
  // [rows × cols]: |w_ij|·√slope_ij, where slope_ij is the mean square of the loss's derivative by w_ij
  // (first-order Taylor: Molchanov, Tyree, Karras, Aila, Kautz 2017; LeCun, Denker, Solla 1990).
  Matrix<double> slopes;
};

// [rows × cols], 1 where a weight stays: the most important ones in each row, of every M, or by blocks of
// largest norm of importance. Rows (block rows) are pruned one by one, each to the same count, so that the
// result does not depend on which slab they came in. Ties go to the lower column. Throws
// std::invalid_argument where the slab does not fit the pattern.
std::vector<uint8_t> mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                             const Importance& importance);

// The same by one threshold for all rows of the layer, which keeps the most important ones of all, weights or
// blocks; not of N:M. Ties go to the lower row, then the lower column. Collective, and the same on any number
// of ranks.
std::vector<uint8_t> global_mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                                    const Importance& importance, Calibrator& calibrator);

}  // namespace lamina

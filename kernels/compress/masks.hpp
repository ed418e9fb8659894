// Which weights stay.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/compress/scheme.hpp"

namespace lamina {

// How many of `count` stay.
int64_t kept_of(int64_t count, double sparsity);

// [rows × cols], 1 where a weight stays: those of largest |w_ij|, or where `loud` [cols] is given of largest
// |w_ij|·√loud_j (Wanda: Sun, Liu, Bair, Kolter 2023); in each row, of every M, or by blocks of largest norm.
// Rows (block rows) are pruned one by one, each to the same count, so that the result does not depend on
// which slab they came in. Ties go to the lower column. Throws std::invalid_argument where the slab does not
// fit the pattern.
std::vector<uint8_t> mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                             const std::vector<double>& loud);

}  // namespace lamina

// What every scheme does with a slab of rows before its own work.
#pragma once

#include "kernels/compress/scheme.hpp"

namespace lamina {

// Throws std::invalid_argument, naming row and column of the whole matrix, at the first weight that is not
// finite, and when the slab does not lie in the shape.
void check_rows(const RowSlab& slab);

// A leaf that covers the slab, with nothing in it yet.
Leaf leaf_of(const RowSlab& slab);

}  // namespace lamina

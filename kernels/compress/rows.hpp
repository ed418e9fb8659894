// What every scheme does with a slab of rows before its own work.
#pragma once

#include "kernels/activations.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// Throws std::invalid_argument, naming row and column of the whole matrix, at the first weight that is not
// finite, and when the slab does not lie in the shape.
void check_rows(const RowSlab& slab);
// The latter alone, for those who meet each weight anyway, and then call check_rows() where one is not
// finite.
void check_place(const RowSlab& slab);

// A leaf that covers the slab, with nothing in it yet.
Leaf leaf_of(const RowSlab& slab);

// Column j times scales[j], within float32's range.
Matrix<float> scale_columns(const Matrix<float>& rows, const std::vector<float>& scales);

// The largest |w| of `count` finite weights.
float largest_magnitude(const float* w, int64_t count);

// Round to nearest, ties to even, for |value| under 2²²: adding 1.5·2²³ leaves no fraction bits. Unlike
// std::nearbyint it vectorises everywhere.
inline float round_even(float value) {
  return (value + 12582912.0f) - 12582912.0f;
}

}  // namespace lamina

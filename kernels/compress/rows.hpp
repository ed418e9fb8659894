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

// 8-bit codes, symmetric per output channel: encode(w · largest / max|w|), and the scale max|w| / largest.
// The including file is compiled without fused multiply-adds, so that codes are the same everywhere.
template <class Encode>
Leaf quantize_rows(const RowSlab& slab, float largest, Encode encode) {
  Leaf leaf = leaf_of(slab);
  leaf.bits = 8;
  leaf.group = leaf.cols;
  leaf.per_channel = true;
  leaf.codes.resize(static_cast<size_t>(leaf.rows * leaf.cols));
  leaf.scales.resize(static_cast<size_t>(leaf.cols > 0 ? leaf.rows : 0));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < static_cast<int64_t>(leaf.scales.size()); ++i) {
    const float* w = slab.rows.row(i);
    const float amax = largest_magnitude(w, leaf.cols);
    // A row this small counts as zero: largest/amax could overflow. Codes and scale stay 0.
    if (amax < kSmallestActivation) continue;
    const float factor = largest / amax;
    int8_t* codes = leaf.codes.data() + i * leaf.cols;
    for (int64_t j = 0; j < leaf.cols; ++j) codes[j] = encode(w[j] * factor);
    leaf.scales[static_cast<size_t>(i)] = amax / largest;
  }
  return leaf;
}

}  // namespace lamina

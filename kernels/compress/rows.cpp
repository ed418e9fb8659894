#include "kernels/compress/rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "kernels/wide.hpp"

namespace lamina {
namespace {

// Magnitudes of floats are ordered as their bits are, and integer maxima vectorise where float ones may not.
LAMINA_WIDE uint32_t largest_bits(const float* w, int64_t count) {
  uint32_t largest = 0;
  for (int64_t j = 0; j < count; ++j)
    largest = std::max(largest, std::bit_cast<uint32_t>(w[j]) & 0x7fffffffu);
  return largest;
}

}  // namespace

void check_place(const RowSlab& slab) {
  const Matrix<float>& rows = slab.rows;
  if (rows.cols != slab.shape.in_features || slab.row_begin < 0 ||
      slab.row_begin + rows.rows > slab.shape.out_features)
    throw std::invalid_argument(
        fmt::format("compress: expected rows of {} × {}, found {} rows of {} columns at row {}",
                    slab.shape.out_features, slab.shape.in_features, rows.rows, rows.cols, slab.row_begin));
}

void check_rows(const RowSlab& slab) {
  check_place(slab);
  const Matrix<float>& rows = slab.rows;
  int64_t bad = -1;  // the first row with such a weight, whatever the thread that finds it
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows.rows; ++i) {
    // Exponent bits all set: an infinity or a NaN.
    if (largest_bits(rows.row(i), rows.cols) >= 0x7f800000u) {
#pragma omp critical
      if (bad < 0 || i < bad) bad = i;
    }
  }
  if (bad < 0) return;
  for (int64_t j = 0; j < rows.cols; ++j) {
    if (!std::isfinite(rows(bad, j)))
      throw std::invalid_argument(fmt::format("expected finite weights, found {} at row {}, column {}",
                                              rows(bad, j), slab.row_begin + bad, j));
  }
}

Matrix<float> scale_columns(const Matrix<float>& rows, const std::vector<float>& scales) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  Matrix<float> scaled(rows.rows, rows.cols);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows.rows; ++i)
    for (int64_t j = 0; j < rows.cols; ++j)
      scaled(i, j) = std::clamp(rows(i, j) * scales[static_cast<size_t>(j)], -kLargest, kLargest);
  return scaled;
}

float largest_magnitude(const float* w, int64_t count) {
  return std::bit_cast<float>(largest_bits(w, count));
}

Leaf leaf_of(const RowSlab& slab) {
  Leaf leaf;
  leaf.rows = slab.rows.rows;
  leaf.cols = slab.rows.cols;
  leaf.whole_rows = slab.shape.out_features;
  leaf.whole_cols = slab.shape.in_features;
  leaf.row_begin = slab.row_begin;
  return leaf;
}

}  // namespace lamina

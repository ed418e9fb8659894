#include "kernels/compress/masks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <stdexcept>

namespace lamina {
namespace {

// Marks the `kept` largest keys, the lower index first among equals. `scratch` holds `count` keys.
template <class Key, class Mark>
void mark_largest(const std::vector<Key>& keys, int64_t kept, std::vector<Key>& scratch, Mark mark) {
  if (kept <= 0) return;
  scratch = keys;
  auto nth = scratch.begin() + (kept - 1);
  std::nth_element(scratch.begin(), nth, scratch.end(), std::greater<Key>());
  const Key threshold = *nth;
  int64_t above = 0;
  for (const Key& key : keys) above += key > threshold ? 1 : 0;
  int64_t equal = kept - above;
  for (size_t j = 0; j < keys.size(); ++j) {
    if (keys[j] > threshold || (keys[j] == threshold && equal-- > 0)) mark(static_cast<int64_t>(j));
  }
}

// key(w, j) ranks weights of a row.
template <class Key, class KeyOf>
void mark_rows(const Matrix<float>& rows, int64_t kept, const KeyOf& key, std::vector<uint8_t>& all) {
#pragma omp parallel
  {
    std::vector<Key> keys(static_cast<size_t>(rows.cols)), scratch;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows.rows; ++i) {
      for (int64_t j = 0; j < rows.cols; ++j) keys[static_cast<size_t>(j)] = key(rows(i, j), j);
      uint8_t* mask = all.data() + i * rows.cols;
      mark_largest(keys, kept, scratch, [mask](int64_t j) { mask[j] = 1; });
    }
  }
}

template <class KeyOf>
void mark_groups(const Matrix<float>& rows, int64_t n, int64_t m, const KeyOf& key,
                 std::vector<uint8_t>& all) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows.rows; ++i) {
    for (int64_t g = 0; g < rows.cols; g += m) {
      const float* w = rows.row(i) + g;
      uint8_t* mask = all.data() + i * rows.cols + g;
      // Kept when fewer than n come before it; m is at most 16.
      for (int64_t j = 0; j < m; ++j) {
        int64_t before = 0;
        for (int64_t o = 0; o < m; ++o) {
          const auto mine = key(w[j], g + j), other = key(w[o], g + o);
          before += other > mine || (other == mine && o < j) ? 1 : 0;
        }
        mask[j] = before < n ? 1 : 0;
      }
    }
  }
}

template <class KeyOf>
void mark_blocks(const Matrix<float>& rows, const Pattern& pattern, double sparsity, const KeyOf& square,
                 std::vector<uint8_t>& all) {
  const int64_t br = pattern.block_rows, bc = pattern.block_cols;
  const int64_t blocks = rows.cols / bc, kept = kept_of(blocks, sparsity);
#pragma omp parallel
  {
    std::vector<double> norms(static_cast<size_t>(blocks)), scratch;
#pragma omp for schedule(static)
    for (int64_t top = 0; top < rows.rows; top += br) {
      const int64_t bottom = std::min(top + br, rows.rows);  // the last block row may be short
      std::fill(norms.begin(), norms.end(), 0.0);
      for (int64_t i = top; i < bottom; ++i)
        for (int64_t j = 0; j < rows.cols; ++j) norms[static_cast<size_t>(j / bc)] += square(rows(i, j), j);
      mark_largest(norms, kept, scratch, [&](int64_t block) {
        for (int64_t i = top; i < bottom; ++i) {
          uint8_t* mask = all.data() + i * rows.cols + block * bc;
          std::fill(mask, mask + bc, uint8_t{1});
        }
      });
    }
  }
}

}  // namespace

int64_t kept_of(int64_t count, double sparsity) {
  return count - std::llround(sparsity * static_cast<double>(count));
}

std::vector<uint8_t> mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                             const std::vector<double>& loud) {
  const Matrix<float>& rows = slab.rows;
  std::vector<double> norms;
  for (const double square : loud) norms.push_back(std::sqrt(square));
  const auto magnitude = [](float w, int64_t) { return std::fabs(w); };
  const auto times_norm = [&](float w, int64_t j) {
    return std::fabs(static_cast<double>(w)) * norms[static_cast<size_t>(j)];
  };
  const int64_t unit = pattern_units(pattern).cols;
  if (rows.cols % unit != 0)
    throw std::invalid_argument(
        fmt::format("pruned: expected columns in multiples of {}, found {}", unit, rows.cols));
  std::vector<uint8_t> mask(static_cast<size_t>(rows.rows * rows.cols));
  switch (pattern.kind) {
    case PatternKind::n_of_m:
      if (loud.empty())
        mark_groups(rows, pattern.n, pattern.m, magnitude, mask);
      else
        mark_groups(rows, pattern.n, pattern.m, times_norm, mask);
      break;
    case PatternKind::block:
      if (slab.row_begin % pattern.block_rows != 0)
        throw std::invalid_argument(
            fmt::format("pruned: expected slabs at multiples of {} rows, found one at {}", pattern.block_rows,
                        slab.row_begin));
      mark_blocks(
          rows, pattern, sparsity,
          [&](float w, int64_t j) {
            const double key = loud.empty() ? w : times_norm(w, j);
            return key * key;
          },
          mask);
      break;
    default:
      if (loud.empty()) {
        // Magnitudes as bits: ordered alike, and integers compare faster.
        mark_rows<uint32_t>(
            rows, kept_of(rows.cols, sparsity),
            [](float w, int64_t) { return std::bit_cast<uint32_t>(w) & 0x7fffffffu; }, mask);
      } else {
        mark_rows<double>(rows, kept_of(rows.cols, sparsity), times_norm, mask);
      }
      break;
  }
  return mask;
}

}  // namespace lamina

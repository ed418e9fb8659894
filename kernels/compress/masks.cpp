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

// key(i, j) ranks weights.
template <class Key, class KeyOf>
void mark_rows(const Matrix<float>& rows, int64_t kept, const KeyOf& key, std::vector<uint8_t>& all) {
#pragma omp parallel
  {
    std::vector<Key> keys(static_cast<size_t>(rows.cols)), scratch;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows.rows; ++i) {
      for (int64_t j = 0; j < rows.cols; ++j) keys[static_cast<size_t>(j)] = key(i, j);
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
      uint8_t* mask = all.data() + i * rows.cols + g;
      double keys[16];
      for (int64_t j = 0; j < m; ++j) keys[j] = key(i, g + j);
      // Kept when fewer than n come before it; m is at most 16.
      for (int64_t j = 0; j < m; ++j) {
        int64_t before = 0;
        for (int64_t o = 0; o < m; ++o) before += keys[o] > keys[j] || (keys[o] == keys[j] && o < j) ? 1 : 0;
        mask[j] = before < n ? 1 : 0;
      }
    }
  }
}

// Sums of squares of each block's keys, [block rows × blocks in a row]; the last block row may be short.
template <class KeyOf>
Matrix<double> block_norms(const Matrix<float>& rows, const Pattern& pattern, const KeyOf& key) {
  const int64_t br = pattern.block_rows, bc = pattern.block_cols;
  Matrix<double> norms((rows.rows + br - 1) / br, rows.cols / bc);
#pragma omp parallel for schedule(static)
  for (int64_t top = 0; top < rows.rows; top += br)
    for (int64_t i = top; i < std::min(top + br, rows.rows); ++i)
      for (int64_t j = 0; j < rows.cols; ++j) {
        const double each = key(i, j);
        norms(top / br, j / bc) += each * each;
      }
  return norms;
}

void mark_block(const Matrix<float>& rows, const Pattern& pattern, int64_t block_row, int64_t block,
                std::vector<uint8_t>& all) {
  const int64_t top = block_row * pattern.block_rows, bottom = std::min(top + pattern.block_rows, rows.rows);
  for (int64_t i = top; i < bottom; ++i) {
    uint8_t* mask = all.data() + i * rows.cols + block * pattern.block_cols;
    std::fill(mask, mask + pattern.block_cols, uint8_t{1});
  }
}

// Calls with(key) where key(i, j) is the importance as the rule has it, from 0 up.
template <class With>
void with_importance(const Matrix<float>& rows, const Importance& importance, const With& with) {
  const auto magnitude = [&](int64_t i, int64_t j) { return std::fabs(static_cast<double>(rows(i, j))); };
  if (!importance.loud.empty()) {
    std::vector<double> norms;
    for (const double square : importance.loud) norms.push_back(std::sqrt(square));
    with([&](int64_t i, int64_t j) { return magnitude(i, j) * norms[static_cast<size_t>(j)]; });
  } else if (!importance.slopes.data.empty()) {
    with([&](int64_t i, int64_t j) { return magnitude(i, j) * std::sqrt(importance.slopes(i, j)); });
  } else {
    with(magnitude);
  }
}

void check_fit(const RowSlab& slab, const Pattern& pattern) {
  const int64_t unit = pattern_units(pattern).cols;
  if (slab.rows.cols % unit != 0)
    throw std::invalid_argument(
        fmt::format("pruned: expected columns in multiples of {}, found {}", unit, slab.rows.cols));
  if (pattern.kind == PatternKind::block && slab.rows.rows > 0 && slab.row_begin % pattern.block_rows != 0)
    throw std::invalid_argument(fmt::format("pruned: expected slabs at multiples of {} rows, found one at {}",
                                            pattern.block_rows, slab.row_begin));
}

// The kept-th largest of the keys that all ranks have together, and how many of those that equal it are among
// the largest `kept`. visit(row, emit) emits a row's keys. By counts of 16 bits after 16, the highest first:
// four sums over ranks, each of 65536 counts.
struct Selected {
  uint64_t key = 0;
  int64_t equal = 0, of = 0;  // `equal` of the `of` that equal it
};
template <class Visit>
Selected select_largest(int64_t rows, int64_t kept, Calibrator& calibrator, const Visit& visit) {
  constexpr int64_t kDigits = 1 << 16;
  Selected selected{0, kept, 0};
  uint64_t known = 0;  // bits that are
  for (int shift = 48; shift >= 0; shift -= 16) {
    std::vector<int64_t> counts(kDigits);
#pragma omp parallel
    {
      std::vector<int64_t> own(kDigits);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rows; ++i)
        visit(i, [&](uint64_t key) {
          if ((key & known) == selected.key) ++own[(key >> shift) % kDigits];
        });
#pragma omp critical(lamina_select)
      for (size_t digit = 0; digit < counts.size(); ++digit) counts[digit] += own[digit];
    }
    counts = calibrator.total(std::move(counts));
    auto digit = static_cast<size_t>(kDigits - 1);
    while (digit > 0 && counts[digit] < selected.equal) selected.equal -= counts[digit--];
    selected.key |= static_cast<uint64_t>(digit) << shift;
    selected.of = counts[digit];
    known |= static_cast<uint64_t>(kDigits - 1) << shift;
  }
  return selected;
}

// Marks the `kept` most important of all ranks' [rows × cols] numbers, of which this one's begin at `first`
// of them all.
template <class KeyOf, class Mark>
void mark_globally(int64_t rows, int64_t cols, int64_t first, int64_t kept, const KeyOf& key,
                   Calibrator& calibrator, const Mark& mark) {
  // Numbers from 0 up are ordered as their bits are.
  const auto bits = [&](int64_t i, int64_t j) {
    return std::bit_cast<uint64_t>(static_cast<double>(key(i, j)));
  };
  const auto place = [&](int64_t i, int64_t j) { return ~static_cast<uint64_t>(first + i * cols + j); };
  const Selected threshold = select_largest(rows, kept, calibrator, [&](int64_t i, const auto& emit) {
    for (int64_t j = 0; j < cols; ++j) emit(bits(i, j));
  });
  Selected last;  // of equals, in order of place
  if (threshold.equal < threshold.of)
    last = select_largest(rows, threshold.equal, calibrator, [&](int64_t i, const auto& emit) {
      for (int64_t j = 0; j < cols; ++j)
        if (bits(i, j) == threshold.key) emit(place(i, j));
    });
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const uint64_t mine = bits(i, j);
      if (mine > threshold.key || (mine == threshold.key && place(i, j) >= last.key)) mark(i, j);
    }
}

}  // namespace

int64_t kept_of(int64_t count, double sparsity) {
  return count - std::llround(sparsity * static_cast<double>(count));
}

std::vector<uint8_t> mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                             const Importance& importance) {
  const Matrix<float>& rows = slab.rows;
  check_fit(slab, pattern);
  std::vector<uint8_t> mask(static_cast<size_t>(rows.rows * rows.cols));
  if (pattern.kind == PatternKind::unstructured && importance.loud.empty() &&
      importance.slopes.data.empty()) {
    // Magnitudes as bits: ordered alike, and integers compare faster.
    mark_rows<uint32_t>(
        rows, kept_of(rows.cols, sparsity),
        [&](int64_t i, int64_t j) { return std::bit_cast<uint32_t>(rows(i, j)) & 0x7fffffffu; }, mask);
    return mask;
  }
  with_importance(rows, importance, [&](const auto& key) {
    if (pattern.kind == PatternKind::n_of_m) {
      mark_groups(rows, pattern.n, pattern.m, key, mask);
    } else if (pattern.kind == PatternKind::block) {
      const Matrix<double> norms = block_norms(rows, pattern, key);
      std::vector<double> keys, scratch;
      for (int64_t r = 0; r < norms.rows; ++r) {
        keys.assign(norms.row(r), norms.row(r) + norms.cols);
        mark_largest(keys, kept_of(norms.cols, sparsity), scratch,
                     [&](int64_t block) { mark_block(rows, pattern, r, block, mask); });
      }
    } else {
      mark_rows<double>(rows, kept_of(rows.cols, sparsity), key, mask);
    }
  });
  return mask;
}

std::vector<uint8_t> global_mask_of(const RowSlab& slab, const Pattern& pattern, double sparsity,
                                    const Importance& importance, Calibrator& calibrator) {
  const Matrix<float>& rows = slab.rows;
  check_fit(slab, pattern);
  const auto [n, k] = slab.shape;
  std::vector<uint8_t> mask(static_cast<size_t>(rows.rows * rows.cols));
  with_importance(rows, importance, [&](const auto& key) {
    if (pattern.kind == PatternKind::block) {
      const Matrix<double> norms = block_norms(rows, pattern, key);
      const int64_t block_rows = (n + pattern.block_rows - 1) / pattern.block_rows;
      mark_globally(
          norms.rows, norms.cols, slab.row_begin / pattern.block_rows * norms.cols,
          kept_of(block_rows * norms.cols, sparsity), [&](int64_t i, int64_t j) { return norms(i, j); },
          calibrator, [&](int64_t i, int64_t j) { mark_block(rows, pattern, i, j, mask); });
    } else {
      mark_globally(rows.rows, k, slab.row_begin * k, kept_of(n * k, sparsity), key, calibrator,
                    [&](int64_t i, int64_t j) { mask[static_cast<size_t>(i * k + j)] = 1; });
    }
  });
  return mask;
}

}  // namespace lamina

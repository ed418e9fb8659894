#include "kernels/compress/compensate.hpp"

#include <omp.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
            const int*, const double*, const int*, const double*, double*, const int*);
}

namespace lamina {
namespace {

constexpr int64_t kBlock = GramRoot::kBlock;
// Rows of one product: fixed, and slabs begin at multiples of it, so that shapes do not depend on the ranks.
constexpr int64_t kRows = 128;

// Row-major C[m × n] += A[m × k]·B[k × n].
void add_product(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t ldb,
                 double* c, int64_t ldc) {
  if (m == 0 || n == 0 || k == 0) return;
  const int rows = static_cast<int>(m), cols = static_cast<int>(n), depth = static_cast<int>(k);
  const int a_stride = static_cast<int>(lda), b_stride = static_cast<int>(ldb),
            c_stride = static_cast<int>(ldc);
  const double one = 1;
  // Column-major, it is Cᵀ += Bᵀ·Aᵀ.
  dgemm_("N", "N", &cols, &rows, &depth, &one, b, &b_stride, a, &a_stride, &one, c, &c_stride);
}

// The channels of a block of L's rows, last to first, of one row of weights.
struct BlockRow {
  const Matrix<double>& lower;  // the block's rows of L
  int64_t begin;                // its first channel, as L counts them
  const int64_t* channels;      // [block's] of W
  const float* w;               // row of W
  double* carried;              // Σ d_q·L_qp of the channels met, as L counts them
  double* lost;                 // d, [block's]

  double diagonal(int64_t p) const { return lower(p, begin + p); }
  // Within float32's range, whatever the weights are.
  double compensated(int64_t p, double carry) const {
    constexpr double kLargest = std::numeric_limits<float>::max();
    return std::clamp(w[channels[p]] + carry / diagonal(p), -kLargest, kLargest);
  }

  // The group as it would be if nothing more were lost: each of its weights carries what those before leave.
  void open(int64_t row, int64_t p, Replacement& replacement) const {
    const int64_t group = replacement.group();
    float next[kBlock];
    double cost[kBlock], carry[kBlock];
    std::reverse_copy(carried + begin + p + 1 - group, carried + begin + p + 1, carry);
    for (int64_t j = 0; j < group; ++j) {
      const double value = compensated(p - j, carry[j]), moved = w[channels[p - j]] - value;
      next[j] = static_cast<float>(value);
      cost[j] = diagonal(p - j) * diagonal(p - j);
      for (int64_t i = j + 1; i < group; ++i) carry[i] += moved * lower(p - j, begin + p - i);
    }
    replacement.open(row, channels[p], next, cost);
  }

  void replace(int64_t row, bool in_order, Replacement& replacement) const {
    for (int64_t p = lower.rows - 1; p >= 0; --p) {
      if (in_order && channels[p] % replacement.group() == 0) open(row, p, replacement);
      lost[p] = w[channels[p]] - replacement.replace(row, channels[p], compensated(p, carried[begin + p]));
      const double* next = lower.row(p) + begin;
      for (int64_t q = 0; q < p; ++q) carried[begin + q] += lost[p] * next[q];
    }
  }
};

}  // namespace

void compensate(const RowSlab& slab, const std::vector<int64_t>& order, int64_t tokens, double damping,
                Calibrator& calibrator, Replacement& replacement) {
  const int64_t rows = slab.rows.rows, cols = slab.rows.cols;
  const std::vector<int64_t> channels(order.rbegin(), order.rend());
  const bool in_order = replacement.group() > 0 && std::is_sorted(order.begin(), order.end());
  // Allocated before the first collective: what fails then fails on all ranks.
  Matrix<double> carried(rows, cols), lost(rows, kBlock);
  const auto root = calibrator.root(channels, tokens, damping);
  const int threads = omp_get_max_threads();
  const BlasThreads single(1);
  for (int64_t block = (cols + kBlock - 1) / kBlock - 1; block >= 0; --block) {
    const Matrix<double>& lower = root->rows(block);
    const int64_t begin = block * kBlock;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t count = std::min(kRows, rows - first);
      for (int64_t i = first; i < first + count; ++i)
        BlockRow{lower, begin, channels.data() + begin, slab.rows.row(i), carried.row(i), lost.row(i)}
            .replace(i, in_order, replacement);
      add_product(count, begin, lower.rows, lost.row(first), kBlock, lower.data.data(), lower.cols,
                  carried.row(first), cols);
    }
  }
}

std::vector<int64_t> natural_order(int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

int64_t slab_rows_at_most(int64_t out_features, int64_t ranks) {
  const int64_t blocks = (out_features + kRows - 1) / kRows;
  return std::min(out_features, (blocks + ranks - 1) / ranks * kRows);
}

int64_t chunk_bytes(int64_t in_features, int64_t ranks) {
  // One of its own, every rank's, and one in float64.
  return (4 * (ranks + 2) + 8) * kBlock * in_features;
}

int64_t compensate_bytes(Shape shape, int64_t ranks) {
  const auto [n, k] = shape;
  const int64_t rows = slab_rows_at_most(n, ranks);
  const int64_t triangle = 8 * k * (k + kBlock) / 2 / ranks;
  // Beside the triangle: chunks of tokens, or what rows carry and a block of another rank's L.
  // 512 tokens in float64 where the Gram is summed.
  return triangle +
         std::max(chunk_bytes(k, ranks) + 8 * 3 * kBlock * k, 8 * rows * (k + kBlock) + 16 * kBlock * k);
}

}  // namespace lamina

#include "distributed/svd/whiten.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/calibration.hpp"
#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void dpotrf_(const char*, const int*, double*, const int*, int*);
void dtrsm_(const char*, const char*, const char*, const char*, const int*, const int*, const double*,
            const double*, const int*, double*, const int*);
}

namespace lamina {
namespace {

// Tokens that the Gram takes at a time: its triangle passes through memory once for them. Whole chunks.
constexpr int64_t kHeldTokens = 4 * kRowBlock;
// Columns of V that one task takes L from: fixed, so that the products' shapes do not depend on the ranks.
constexpr int64_t kUndoColumns = 32;
// Pivots below this share of their block's mean are rounding.
constexpr double kDependent = 1e-13;

int64_t count_blocks(int64_t size) {
  return (size + kRowBlock - 1) / kRowBlock;
}

// X ← X·L⁻¹ (`transpose`: X·L⁻ᵀ) for row-major X [rows × l] and lower triangular L [l × l].
void solve_lower(bool transpose, int64_t rows, int64_t l, const double* lower, int64_t ld_lower, double* x,
                 int64_t ld_x) {
  if (rows == 0 || l == 0) return;
  // Row-major X·L = B is column-major Lᵀ·Xᵀ = Bᵀ, where L's storage reads as the upper triangle Lᵀ.
  const int m = static_cast<int>(l), n = static_cast<int>(rows), ldl = static_cast<int>(ld_lower),
            ldx = static_cast<int>(ld_x);
  const double one = 1;
  dtrsm_("L", "U", transpose ? "T" : "N", "N", &m, &n, &one, lower, &ldl, x, &ldx);
}

template <class T>
Message to_bytes(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  return {bytes, bytes + values.size() * sizeof(T)};
}

// [own rows of K × r], spread by rows, as this rank's columns transposed [own columns × K]; and back.
Matrix<double> rows_to_columns(const Matrix<float>& v, const std::vector<Range>& rows,
                               const std::vector<Range>& columns, Communicator& comm) {
  Messages send;
  for (const Range& cols : columns) {
    std::vector<float> part;
    part.reserve(static_cast<size_t>(v.rows * cols.size()));
    for (int64_t j = cols.begin; j < cols.end; ++j)
      for (int64_t i = 0; i < v.rows; ++i) part.push_back(v(i, j));
    send.push_back(to_bytes(part));
  }
  const auto received = comm.all_to_all(send);
  const Range own = columns[static_cast<size_t>(comm.rank())];
  Matrix<double> result(own.size(), rows.back().end);
  for (size_t r = 0; r < received.size(); ++r) {
    const auto* from = reinterpret_cast<const float*>(received[r].data());
    for (int64_t j = 0; j < result.rows; ++j)
      for (int64_t k = rows[r].begin; k < rows[r].end; ++k) result(j, k) = *from++;
  }
  return result;
}

void columns_to_rows(const Matrix<double>& from, Matrix<float>& v, const std::vector<Range>& rows,
                     const std::vector<Range>& columns, Communicator& comm) {
  Messages send;
  for (const Range& range : rows) {
    std::vector<float> part;
    part.reserve(static_cast<size_t>(from.rows * range.size()));
    for (int64_t j = 0; j < from.rows; ++j)
      for (int64_t k = range.begin; k < range.end; ++k) part.push_back(static_cast<float>(from(j, k)));
    send.push_back(to_bytes(part));
  }
  const auto received = comm.all_to_all(send);
  for (size_t r = 0; r < received.size(); ++r) {
    const auto* values = reinterpret_cast<const float*>(received[r].data());
    for (int64_t j = columns[r].begin; j < columns[r].end; ++j)
      for (int64_t i = 0; i < v.rows; ++i) v(i, j) = *values++;
  }
}

}  // namespace

void add_gram(const Matrix<double>& x, int64_t count, int rank, int ranks, int threads,
              std::vector<Matrix<double>>& rows) {
  const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t block = static_cast<int64_t>(rows.size()) - 1; block >= 0; --block) {
    if (block % ranks != rank) continue;
    Matrix<double>& g = rows[static_cast<size_t>(block)];
    multiply(true, false, g.rows, g.cols, count, x.data.data() + block * kRowBlock, x.cols, x.data.data(),
             x.cols, g.data.data(), g.cols, true);
  }
}

Whitening::Whitening(Whiten kind, double damping, int64_t in_features, int64_t tokens,
                     const Calibration& calibration, Communicator& comm, int threads)
    : size_(in_features), kind_(kind), comm_(comm), threads_(std::max(1, threads)) {
  together(comm_, [&] {
    if (kind == Whiten::none || tokens < 1 || !calibration || !(damping >= 0))
      throw std::invalid_argument(
          fmt::format("whitening: expected a kind, calibration tokens and a damping of at least 0, found {} "
                      "tokens and {}",
                      tokens, damping));
    diagonal_.assign(static_cast<size_t>(size_), 0.0);
    rows_.resize(static_cast<size_t>(count_blocks(size_)));
    if (kind_ != Whiten::cholesky) return;
    for (int64_t block = comm_.rank(); block < count_blocks(size_); block += comm_.size()) {
      const int64_t end = std::min(size_, (block + 1) * kRowBlock);
      rows_[static_cast<size_t>(block)] = Matrix<double>(end - block * kRowBlock, end);
    }
  });
  add_tokens(tokens, calibration);
  double mean = 0;
  for (const double each : diagonal_) mean += each / static_cast<double>(size_);
  if (!std::isfinite(mean))
    throw AgreedError(fmt::format(
        "whitening: expected calibration tokens that are finite, found a mean square of {}", mean));
  if (mean == 0) {  // no channel says more than another
    warnings_.push_back("all calibration tokens are 0: no channel is weighed above another");
    kind_ = Whiten::diagonal;
    rows_.clear();
    diagonal_.assign(static_cast<size_t>(size_), 1.0);
    return;
  }
  if (kind_ == Whiten::cholesky && tokens < size_) warnings_.push_back(few_tokens_warning(tokens, size_));
  if (kind_ == Whiten::cholesky) {
    factorize(damping * mean);
    return;
  }
  for (double& each : diagonal_) each = std::sqrt(each + damping * mean);
  const double least = *std::min_element(diagonal_.begin(), diagonal_.end());
  if (!(least > 0))
    throw AgreedError(
        "whitening: expected every input channel to vary or a damping over 0, found a channel of zeros");
}

void Whitening::add_tokens(int64_t tokens, const Calibration& calibration) {
  const double scale = 1 / static_cast<double>(tokens);
  Matrix<double> held;
  together(comm_, [&] { held = Matrix<double>(std::min(tokens, kHeldTokens), size_); });
  int64_t filled = 0, left = tokens;
  for_each_chunk(tokens, size_, calibration, comm_, [&](const float* x, int64_t rows) {
    std::copy_n(x, rows * size_, held.row(filled));
    for (int64_t t = filled; t < filled + rows; ++t)
      for (int64_t k = 0; k < size_; ++k)
        diagonal_[static_cast<size_t>(k)] += scale * held(t, k) * held(t, k);
    left -= rows;
    if (kind_ != Whiten::cholesky) return;
    filled += rows;
    if (filled < held.rows && left > 0) return;
    add_gram(held, filled, comm_.rank(), comm_.size(), threads_, rows_);
    filled = 0;
  });
  for (Matrix<double>& g : rows_)
    for (double& each : g.data) each *= scale;
}

// Right-looking blocked Cholesky: the panel of a step is solved by all its rows' owners and gathered.
void Whitening::factorize(double shift) {
  const int64_t blocks = count_blocks(size_), ranks = comm_.size();
  const BlasThreads single(1);
  for (int64_t step = 0; step < blocks; ++step) {
    const int64_t begin = step * kRowBlock, end = std::min(size_, begin + kRowBlock), width = end - begin;
    const int owner = static_cast<int>(step % ranks);
    Matrix<double> diagonal(width, width);
    int info = 0;
    if (comm_.rank() == owner) {
      Matrix<double>& own = rows_[static_cast<size_t>(step)];
      for (int64_t i = 0; i < width; ++i) {
        for (int64_t j = 0; j <= i; ++j) diagonal(i, j) = own(i, begin + j);
        diagonal(i, i) += shift;
      }
      const int n = static_cast<int>(width);
      double mean = 0;
      for (int64_t i = 0; i < width; ++i) mean += diagonal(i, i) / static_cast<double>(width);
      dpotrf_("U", &n, diagonal.data.data(), &n, &info);  // column-major upper is row-major lower
      // A pivot of rounding's size says nothing of the matrix.
      for (int64_t i = 0; i < width && info == 0; ++i)
        if (!(diagonal(i, i) * diagonal(i, i) > kDependent * mean)) info = static_cast<int>(i + 1);
      for (int64_t i = 0; i < width; ++i)
        for (int64_t j = 0; j < width; ++j) own(i, begin + j) = diagonal(i, j) = j <= i ? diagonal(i, j) : 0;
    }
    comm_.require(info == 0 ? ""
                            : fmt::format("whitening: expected a positive definite Gram of the calibration "
                                          "tokens, found it singular at input channel {}; raise "
                                          "\"damping\" or \"calibration_tokens\"",
                                          begin + info - 1));
    comm_.broadcast(diagonal.data.data(), width * width * static_cast<int64_t>(sizeof(double)), owner);

    // The panel under the diagonal, every rank's blocks in rank order.
    std::vector<int64_t> offset(static_cast<size_t>(blocks)), bytes(static_cast<size_t>(ranks), 0);
    int64_t panel_rows = 0, own_rows = 0, own_begin = 0;
    for (int64_t r = 0; r < ranks; ++r) {
      if (r == comm_.rank()) own_begin = panel_rows;
      for (int64_t block = r; block < blocks; block += ranks) {
        if (block <= step) continue;
        const int64_t rows = std::min(kRowBlock, size_ - block * kRowBlock);
        offset[static_cast<size_t>(block)] = panel_rows;
        panel_rows += rows;
        bytes[static_cast<size_t>(r)] += rows * width * static_cast<int64_t>(sizeof(double));
        if (r == comm_.rank()) own_rows += rows;
      }
    }
    if (panel_rows == 0) break;
    Matrix<double> own(own_rows, width), panel(panel_rows, width);
    const auto for_own_blocks = [&](const auto& work) {
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
      for (int64_t block = blocks - 1; block > step; --block)
        if (block % ranks == comm_.rank()) work(block, rows_[static_cast<size_t>(block)]);
    };
    for_own_blocks([&](int64_t block, Matrix<double>& g) {
      solve_lower(true, g.rows, width, diagonal.data.data(), width, g.data.data() + begin, g.cols);
      const int64_t at = offset[static_cast<size_t>(block)] - own_begin;
      for (int64_t i = 0; i < g.rows; ++i) std::copy_n(g.row(i) + begin, width, own.row(at + i));
    });
    comm_.all_gather(own.data.data(), panel.data.data(), bytes);
    for (double& each : own.data) each = -each;
    for_own_blocks([&](int64_t block, Matrix<double>& g) {
      const double* minus = own.row(offset[static_cast<size_t>(block)] - own_begin);
      for (int64_t other = step + 1; other <= block; ++other)
        multiply(false, true, g.rows, std::min(kRowBlock, size_ - other * kRowBlock), width, minus, width,
                 panel.row(offset[static_cast<size_t>(other)]), width, g.data.data() + other * kRowBlock,
                 g.cols, true);
    });
  }
}

const Matrix<double>& Whitening::share(int64_t block) {
  const int owner = static_cast<int>(block % comm_.size());
  Matrix<double>& own = rows_[static_cast<size_t>(block)];
  const bool mine = comm_.rank() == owner;
  if (!mine) {
    const int64_t end = std::min(size_, (block + 1) * kRowBlock);
    shared_ = Matrix<double>(end - block * kRowBlock, end);
  }
  Matrix<double>& row = mine ? own : shared_;
  comm_.broadcast(row.data.data(), row.rows * row.cols * static_cast<int64_t>(sizeof(double)), owner);
  return row;
}

Matrix<float> Whitening::apply(const Matrix<float>& slab) {
  Matrix<float> result(slab.rows, size_);
  if (kind_ == Whiten::diagonal) {
    for (int64_t i = 0; i < slab.rows; ++i)
      for (int64_t k = 0; k < size_; ++k)
        result(i, k) = static_cast<float>(slab(i, k) * diagonal_[static_cast<size_t>(k)]);
    return result;
  }
  for (int64_t block = 0; block < count_blocks(size_); ++block) {
    const Matrix<double>& row = share(block);
    Matrix<float> lower(row.rows, row.cols);
    std::copy(row.data.begin(), row.data.end(), lower.data.begin());
    for_each_block(slab.rows, threads_, [&](int64_t begin, int64_t rows, int) {
      multiply(false, false, rows, lower.cols, lower.rows, slab.row(begin) + block * kRowBlock, slab.cols,
               lower.data.data(), lower.cols, result.row(begin), size_, true);
    });
  }
  return result;
}

void Whitening::undo(Matrix<float>& v) {
  const std::vector<Range> rows = partition(size_, comm_.size(), kRowBlock);
  if (kind_ == Whiten::diagonal) {
    const int64_t begin = rows[static_cast<size_t>(comm_.rank())].begin;
    for (int64_t i = 0; i < v.rows; ++i)
      for (int64_t j = 0; j < v.cols; ++j)
        v(i, j) = static_cast<float>(v(i, j) / diagonal_[static_cast<size_t>(begin + i)]);
    return;
  }
  // Columns of V do not depend on each other: each rank takes L from its share of them, while L passes by
  // from its last row to its first.
  const std::vector<Range> columns = partition(v.cols, comm_.size(), kUndoColumns);
  Matrix<double> z = rows_to_columns(v, rows, columns, comm_);
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads_), Matrix<double>(kUndoColumns, kRowBlock));
  const BlasThreads single(1);
  for (int64_t block = count_blocks(size_) - 1; block >= 0; --block) {
    const Matrix<double>& row = share(block);
    const int64_t begin = block * kRowBlock;
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (int64_t first = 0; first < z.rows; first += kUndoColumns) {
      const int64_t count = std::min(kUndoColumns, z.rows - first);
      double* solved = z.row(first) + begin;
      solve_lower(false, count, row.rows, row.data.data() + begin, row.cols, solved, size_);
      Matrix<double>& minus = scratch[static_cast<size_t>(omp_get_thread_num())];
      for (int64_t j = 0; j < count; ++j)
        for (int64_t k = 0; k < row.rows; ++k) minus(j, k) = -solved[j * size_ + k];
      multiply(false, false, count, begin, row.rows, minus.data.data(), kRowBlock, row.data.data(), row.cols,
               z.row(first), size_, true);
    }
  }
  columns_to_rows(z, v, rows, columns, comm_);
}

int64_t whitening_bytes(Shape shape, int64_t rank, int ranks, Whiten kind, int threads) {
  const int64_t k = shape.in_features;
  if (kind == Whiten::none) return 0;
  const int64_t rows = (count_blocks(shape.out_features) + ranks - 1) / ranks * kRowBlock;
  int64_t bytes = 8 * k + 4 * rows * k;
  if (kind == Whiten::diagonal) return bytes + 4 * (ranks + 1) * kRowBlock * k + 8 * kHeldTokens * k;
  const int64_t triangle = 8 * k * (k + kRowBlock) / 2 / ranks;
  // Beside the triangle: chunks of tokens, or a row of L in both precisions, or V's share and what it came
  // in.
  const int64_t tokens = 4 * (ranks + 1) * kRowBlock * k + 8 * kHeldTokens * k;
  const int64_t passing = 12 * kRowBlock * k;
  const int64_t undo =
      (8 + 4 + 4) * k * (rank / ranks + kUndoColumns) + 8 * threads * kUndoColumns * kRowBlock;
  return bytes + triangle + std::max({tokens, passing + undo});
}

}  // namespace lamina

#include "distributed/svd/products.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/coarse.hpp"
#include "distributed/svd/digits.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/transpose.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina::svd {
namespace {

// Of the shorter side: what one task of back() adds up, in the second-level cache for a few hundred columns;
// and what exact_forward() widens at a time.
constexpr int64_t kShortPanel = 256;
static_assert(kShortPanel <= CoarseTall::kMostDepth && kRowBlock <= CoarseTall::kMostDepth);

// Magnitudes of A from here to the inverse stay within bfloat16's normal numbers, with what they are
// multiplied by.
constexpr double kLeastCoarse = 0x1p-40;

}  // namespace

Products::Products(const Input& input, Communicator& comm, int threads)
    : long_is_rows_(layout(input.shape) == Layout::rows),
      a_(input, layout(input.shape), comm, threads),
      comm_(comm),
      threads_(threads),
      long_shares_(
          partition(std::max(input.shape.out_features, input.shape.in_features), comm.size(), kRowBlock)),
      short_shares_(partition(input.small_side(), comm.size(), kRowBlock)),
      max_abs_(input.max_abs),
      norm_(std::sqrt(input.norm_squared)),
      tiles_(input.tiles) {}

template <class T>
Matrix<T> Products::gather(const Matrix<double>& q, double scale) {
  Matrix<T> all;
  together(comm_, [&] { all = Matrix<T>(short_side(), q.cols); });
  std::vector<int64_t> bytes;
  for (const Range& share : short_shares_)
    bytes.push_back(share.size() * q.cols * static_cast<int64_t>(sizeof(T)));
  T* own = all.data.data() + own_short().begin * q.cols;
  std::transform(q.data.begin(), q.data.end(), own, [&](double x) { return static_cast<T>(x * scale); });
  comm_.all_gather(own, all.data.data(), bytes);
  return all;
}

bool Products::can_be_coarse() const {
  return tiles_ && max_abs_ > kLeastCoarse && max_abs_ < 1 / kLeastCoarse;
}

Matrix<float> Products::forward(const Matrix<double>& q, double& scale, bool coarse) {
  // Half of A's exponent off: as far from float32's limits as A is, both this and what comes of it.
  const double half = std::exp2(-std::ilogb(max_abs_) / 2);
  const Matrix<float> z = gather<float>(q, half);
  scale *= half;
  Matrix<float> y;
  std::optional<CoarseTall> rounded;
  together(comm_, [&] {
    y = Matrix<float>(own_long().size(), q.cols);
    if (coarse) rounded.emplace(z, threads_);
  });
  const Matrix<float>& a = a_.local();
  for_each_block(y.rows, threads_, [&](int64_t begin, int64_t rows, int) {
    const float* from = long_is_rows_ ? a.row(begin) : a.data.data() + begin;
    if (coarse) {
      const int64_t token_step = long_is_rows_ ? a.cols : 1, column_step = long_is_rows_ ? 1 : a.cols;
      for (int64_t first = 0; first < z.rows; first += kShortPanel)
        rounded->multiply({from + first * column_step, token_step, column_step}, rows, first,
                          std::min(kShortPanel, z.rows - first), y.row(begin), first > 0);
      return;
    }
    multiply(!long_is_rows_, false, rows, y.cols, z.rows, from, a.cols, z.data.data(), y.cols, y.row(begin),
             y.cols);
  });
  return y;
}

Matrix<double> Products::back(Matrix<float>& y, double& scale, bool coarse) {
  const int64_t l = y.cols, longer = long_shares_.back().end;
  const double largest = max_abs(y, comm_);
  if (!std::isfinite(largest)) throw AgreedError("svd: products of these weights overflow; scale them down");
  if (largest > 0) {
    const double power = std::exp2(-std::ilogb(largest) - std::ilogb(max_abs_) / 2);
    for (float& each : y.data) each = static_cast<float>(each * power);
    scale *= power;
  }
  const double most = largest > 0 ? std::exp2(1 - std::ilogb(max_abs_) / 2) : 0;
  const double shift = exact_shift(1.01 * static_cast<double>(longer) * max_abs_ * most);

  // Each rank's share of the sums lies where it will be sent from, or added to.
  const size_t ranks = short_shares_.size(), own = static_cast<size_t>(comm_.rank());
  Matrix<double> result;
  Messages& send = sent_;
  std::vector<Matrix<float>> scratch(static_cast<size_t>(threads_));
  std::optional<CoarseTall> rounded;
  together(comm_, [&] {
    result = Matrix<double>(own_short().size(), l);
    if (coarse) rounded.emplace(y, threads_);
    send.resize(ranks);
    for (size_t r = 0; r < ranks; ++r) {
      if (r == own) continue;
      send[r].resize(static_cast<size_t>(short_shares_[r].size() * l) * sizeof(double));
      std::ranges::fill(send[r], std::byte{});
    }
    for (auto& each : scratch) each = Matrix<float>(kShortPanel, l);
  });
  const Matrix<float>& a = a_.local();
  {
    const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (int64_t first = 0; first < short_side(); first += kShortPanel) {
      const int64_t width = std::min(kShortPanel, short_side() - first);
      float* product = scratch[static_cast<size_t>(omp_get_thread_num())].data.data();
      for (int64_t begin = 0; begin < y.rows; begin += kRowBlock) {
        const int64_t depth = std::min(kRowBlock, y.rows - begin);
        const float* from = long_is_rows_ ? a.row(begin) + first : a.row(first) + begin;
        if (coarse) {
          const int64_t token_step = long_is_rows_ ? 1 : a.cols, column_step = long_is_rows_ ? a.cols : 1;
          rounded->multiply({from, token_step, column_step}, width, begin, depth, product, false);
        } else {
          multiply(long_is_rows_, false, width, l, depth, from, a.cols, y.row(begin), l, product, l);
        }
        for (size_t r = 0; r < ranks; ++r) {
          const Range share{std::max(first, short_shares_[r].begin),
                            std::min(first + width, short_shares_[r].end)};
          if (share.size() <= 0) continue;
          double* sums = r == own ? result.data.data() : reinterpret_cast<double*>(send[r].data());
          add_on_grid(sums + (share.begin - short_shares_[r].begin) * l, product + (share.begin - first) * l,
                      share.size() * l, shift);
        }
      }
    }
  }
  comm_.all_to_all(send, received_);
  for (size_t r = 0; r < ranks; ++r) {
    if (r == own) continue;
    const auto* part = reinterpret_cast<const double*>(received_[r].data());
    for (size_t i = 0; i < result.data.size(); ++i) result.data[i] += part[i];
  }
  return result;
}

Matrix<double> Products::exact_forward(const Matrix<double>& q) {
  const Matrix<double> z = gather<double>(q, 1);
  Matrix<double> y;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads_));
  together(comm_, [&] {
    y = Matrix<double>(own_long().size(), q.cols);
    for (auto& each : scratch) each = Matrix<double>(kRowBlock, kShortPanel);
  });
  const Matrix<float>& a = a_.local();
  for_each_block(y.rows, threads_, [&](int64_t begin, int64_t rows, int thread) {
    double* wide = scratch[static_cast<size_t>(thread)].data.data();
    for (int64_t first = 0; first < z.rows; first += kShortPanel) {
      const int64_t width = std::min(kShortPanel, z.rows - first);
      // As it lies: [rows × width], or [width × rows].
      const int64_t lines = long_is_rows_ ? rows : width, count = long_is_rows_ ? width : rows;
      for (int64_t i = 0; i < lines; ++i) {
        const float* from = long_is_rows_ ? a.row(begin + i) + first : a.row(first + i) + begin;
        std::copy_n(from, count, wide + i * count);
      }
      multiply(!long_is_rows_, false, rows, y.cols, width, wide, count, z.row(first), y.cols, y.row(begin),
               y.cols, first > 0);
    }
  });
  return y;
}

void Products::let_go() {
  sent_ = {};
  received_ = {};
}

Matrix<double> Products::digit_forward(const Matrix<double>& q, double& lost) {
  const Matrix<double> z = gather<double>(q, 1);
  Matrix<double> y;
  std::vector<std::vector<float>> turned(static_cast<size_t>(threads_));
  std::vector<DigitScratch> scratch;
  std::optional<DigitTall> digits;
  together(comm_, [&] {
    y = Matrix<double>(own_long().size(), q.cols);
    digits.emplace(z, threads_);
    for (auto& each : turned) {
      each.resize(long_is_rows_ ? 0 : static_cast<size_t>(kRowBlock * z.rows));
      scratch.push_back(digits->scratch());
    }
  });
  lost = digits->error(norm_, max_abs_, long_shares_.back().end);
  const Matrix<float>& a = a_.local();
  for_each_block(y.rows, threads_, [&](int64_t begin, int64_t rows, int thread) {
    float* across = turned[static_cast<size_t>(thread)].data();
    if (!long_is_rows_) transpose(a.data.data() + begin, a.cols, z.rows, rows, across, z.rows);
    digits->multiply(scratch[static_cast<size_t>(thread)], long_is_rows_ ? a.row(begin) : across, z.rows,
                     rows, y.row(begin));
  });
  return y;
}

}  // namespace lamina::svd

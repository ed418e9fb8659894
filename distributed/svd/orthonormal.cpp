#include "distributed/svd/orthonormal.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/tsqr.hpp"
#include "kernels/cpu/blas_threads.hpp"
#include "kernels/wide.hpp"

extern "C" {
void dpotrf_(const char*, const int*, double*, const int*, int*);
void dtrsm_(const char*, const char*, const char*, const char*, const int*, const int*, const double*,
            const double*, const int*, double*, const int*);
void dsyrk_(const char*, const char*, const int*, const int*, const double*, const double*, const int*,
            const double*, double*, const int*);
void dtrsv_(const char*, const char*, const char*, const int*, const double*, const int*, double*,
            const int*);
}

namespace lamina::svd {
namespace {

constexpr int64_t kPanel = 256;  // columns of X that one task multiplies
// What a first Cholesky step may leave of I − QᵀQ in an element.
constexpr double kNearlyOrthonormal = 0.1;

constexpr int kInverseIterations = 3;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

LAMINA_WIDE void keep_largest(double* largest, const double* row, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const double magnitude = std::abs(row[j]);
    // NaN and infinity stay
    largest[j] = !(magnitude <= std::numeric_limits<double>::max()) ? kInfinity
                 : magnitude > largest[j]                           ? magnitude
                                                                    : largest[j];
  }
}

LAMINA_WIDE void add_row(double* to, const double* from, const double* power, int64_t count, double shift) {
  for (int64_t j = 0; j < count; ++j) {
    const double grid = shift * power[j];
    to[j] += (from[j] + grid) - grid;
  }
}

LAMINA_WIDE void add_squares(double* sums, const double* row, const double* shrink, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const double x = row[j] * shrink[j];
    sums[j] += x * x;
  }
}

// Powers of two above each column's length, 0 for zeros.
std::vector<double> column_powers(const Matrix<double>& tall, Communicator& comm) {
  const size_t l = static_cast<size_t>(tall.cols);
  std::vector<double> power(l, 0.0), shrink(l), block(l), sums(l, 0.0);
  for (int64_t i = 0; i < tall.rows; ++i) keep_largest(power.data(), tall.row(i), tall.cols);
  comm.all_reduce(power.data(), power.data(), tall.cols, DType::f64, ReduceOp::max);
  for (size_t j = 0; j < l; ++j) {
    if (!std::isfinite(power[j]))
      throw AgreedError("svd: products of these weights overflow; scale them down");
    shrink[j] = power[j] > 0 ? std::exp2(-std::ilogb(power[j])) : 0;
  }
  // Elements below 2 now: no sum of their squares has more whole bits than there are rows of 4.
  const double shift = exact_shift(0x1p40);
  for (int64_t begin = 0; begin < tall.rows; begin += kRowBlock) {
    std::fill(block.begin(), block.end(), 0.0);
    for (int64_t i = begin; i < std::min(tall.rows, begin + kRowBlock); ++i)
      add_squares(block.data(), tall.row(i), shrink.data(), tall.cols);
    for (size_t j = 0; j < l; ++j) sums[j] += on_grid(block[j], shift);
  }
  comm.all_reduce(sums.data(), sums.data(), tall.cols, DType::f64, ReduceOp::sum);
  for (size_t j = 0; j < l; ++j)
    power[j] = power[j] > 0 ? std::exp2(std::ilogb(1.001 * std::sqrt(sums[j])) + 1) / shrink[j] : 0;
  return power;
}

// Blocks' Σ |x_i·y_j| are at most the columns' lengths multiplied, all together; powers of two keep the
// shift's product exact.
const double kBaseShift = exact_shift(1.01);

// to [width_x × width_y] += the products of columns x_first… and y_first…, block by block.
void add_products(const Matrix<double>& x, int64_t x_first, int64_t x_width, const double* x_power,
                  const Matrix<double>& y, int64_t y_first, int64_t y_width, const double* y_power,
                  double shift, double* product, double* to) {
  for (int64_t begin = 0; begin < x.rows; begin += kRowBlock) {
    const int64_t depth = std::min(kRowBlock, x.rows - begin);
    multiply(true, false, x_width, y_width, depth, x.row(begin) + x_first, x.cols, y.row(begin) + y_first,
             y.cols, product, y_width);
    for (int64_t i = 0; i < x_width; ++i) {
      add_row(to + i * y_width, product + i * y_width, y_power + y_first, y_width,
              shift * x_power[x_first + i]);
    }
  }
}

// to [width × width] += the products of columns first… with each other, on and above the diagonal.
void add_own_products(const Matrix<double>& x, int64_t first, int64_t width, const double* power,
                      double shift, double* product, double* to) {
  const int n = blas_int(width), ld = blas_int(x.cols);
  const double one = 1, zero = 0;
  for (int64_t begin = 0; begin < x.rows; begin += kRowBlock) {
    const int depth = static_cast<int>(std::min(kRowBlock, x.rows - begin));
    dsyrk_("L", "N", &n, &depth, &one, x.row(begin) + first, &ld, &zero, product, &n);
    for (int64_t i = 0; i < width; ++i) {
      add_row(to + i * width + i, product + i * width + i, power + first + i, width - i,
              shift * power[first + i]);
    }
  }
}

// Column-major lower is row-major upper: from TᵀT [l × l] to R, of T's columns scaled by powers of two to
// alike lengths, and `unscale` takes them to these. False where Cholesky fails.
bool factor(Matrix<double>& r, std::vector<double>& unscale, double& condition) {
  const int64_t l = r.rows;
  std::vector<double> diagonal(static_cast<size_t>(l));
  for (int64_t i = 0; i < l; ++i) diagonal[static_cast<size_t>(i)] = r(i, i);
  unscale = alike_lengths(diagonal);
  if (unscale.empty()) return false;
  for (int64_t i = 0; i < l; ++i) {
    for (int64_t j = 0; j < l; ++j)
      r(i, j) *= unscale[static_cast<size_t>(i)] * unscale[static_cast<size_t>(j)];
  }
  const int n = blas_int(l);
  int info = 0;
  dpotrf_("L", &n, r.data.data(), &n, &info);
  if (info != 0) return false;
  for (int64_t i = 0; i < l; ++i) diagonal[static_cast<size_t>(i)] = r(i, i);
  condition = spread_of(diagonal);
  return condition <= kWorstCondition;
}

}  // namespace

std::vector<double> alike_lengths(const std::vector<double>& squares) {
  std::vector<double> powers;
  for (const double square : squares) {
    if (!(square > 0)) return {};
    powers.push_back(std::exp2(-std::floor(std::ilogb(square) / 2.0)));
  }
  return powers;
}

double spread_of(const std::vector<double>& diagonal) {
  const auto [least, most] = std::minmax_element(diagonal.begin(), diagonal.end());
  return *most / *least;
}

double least_singular_value(const Matrix<double>& r, const std::vector<double>& scale) {
  const size_t l = scale.size();
  const int n = blas_int(r.rows), one = 1;
  std::vector<double> x(l);
  for (size_t i = 0; i < l; ++i) x[i] = i % 2 == 0 ? 1.0 : -0.7;
  double growth = 0;
  for (int iteration = 0; iteration < kInverseIterations; ++iteration) {
    double before = 0, after = 0;
    for (const double each : x) before += each * each;
    for (size_t i = 0; i < l; ++i) x[i] *= scale[i] / std::sqrt(before);
    dtrsv_("L", "N", "N", &n, r.data.data(), &n, x.data(), &one);
    dtrsv_("L", "T", "N", &n, r.data.data(), &n, x.data(), &one);
    for (size_t i = 0; i < l; ++i) x[i] *= scale[i];
    for (const double each : x) after += each * each;
    growth = std::sqrt(after);
  }
  return 1 / std::sqrt(growth);
}

bool nearly_identity(const Matrix<double>& gram) {
  for (int64_t i = 0; i < gram.rows; ++i) {
    for (int64_t j = i; j < gram.cols; ++j) {
      if (!(std::abs(gram(i, j) - (i == j ? 1 : 0)) <= kNearlyOrthonormal)) return false;
    }
  }
  return true;
}

LAMINA_WIDE void add_on_grid(double* to, const float* from, int64_t count, double shift) {
  for (int64_t i = 0; i < count; ++i) to[i] += on_grid(from[i], shift);
}
LAMINA_WIDE void add_on_grid(double* to, const double* from, int64_t count, double shift) {
  for (int64_t i = 0; i < count; ++i) to[i] += on_grid(from[i], shift);
}

namespace {

// Of a matrix with itself, or with another, by the upper half.
SymmetricTiles upper_products(const Matrix<double>& x, const std::vector<double>& x_power,
                              const Matrix<double>& y, const std::vector<double>& y_power, Communicator& comm,
                              int threads) {
  SymmetricTiles result;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  std::vector<std::pair<int64_t, int64_t>> places;
  together(comm, [&] {
    result = SymmetricTiles(x.cols);
    for (auto& each : scratch) each = Matrix<double>(SymmetricTiles::kSide, SymmetricTiles::kSide);
    for (int64_t i = 0; i < result.tiles(); ++i) {
      for (int64_t j = i; j < result.tiles(); ++j) places.emplace_back(i, j);
    }
  });
  {
    const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t at = 0; at < places.size(); ++at) {
      const auto [i, j] = places[at];
      double* product = scratch[static_cast<size_t>(omp_get_thread_num())].data.data();
      if (i == j && &x == &y) {
        add_own_products(x, i * SymmetricTiles::kSide, result.side(i), x_power.data(), kBaseShift, product,
                         result.tile(i, i));
        continue;
      }
      add_products(x, i * SymmetricTiles::kSide, result.side(i), x_power.data(), y, j * SymmetricTiles::kSide,
                   result.side(j), y_power.data(), kBaseShift, product, result.tile(i, j));
    }
  }
  comm.all_reduce(result.data.data(), result.data.data(), static_cast<int64_t>(result.data.size()),
                  DType::f64, ReduceOp::sum);
  return result;
}

}  // namespace

SymmetricTiles gram(const Matrix<double>& tall, Communicator& comm, int threads) {
  const std::vector<double> power = column_powers(tall, comm);
  return upper_products(tall, power, tall, power, comm, threads);
}

SymmetricTiles symmetric_products(const Matrix<double>& x, const Matrix<double>& y, Communicator& comm,
                                  int threads) {
  const std::vector<double> x_power = column_powers(x, comm), y_power = column_powers(y, comm);
  return upper_products(x, x_power, y, y_power, comm, threads);
}

Matrix<double> inner_products(const Matrix<double>& x, const Matrix<double>& y, Communicator& comm,
                              int threads) {
  const std::vector<double> x_power = column_powers(x, comm), y_power = column_powers(y, comm);
  Matrix<double> result;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  together(comm, [&] {
    result = Matrix<double>(x.cols, y.cols);
    for (auto& each : scratch) each = Matrix<double>(kPanel, y.cols);
  });
  {
    const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t first = 0; first < x.cols; first += kPanel) {
      add_products(x, first, std::min(kPanel, x.cols - first), x_power.data(), y, 0, y.cols, y_power.data(),
                   kBaseShift, scratch[static_cast<size_t>(omp_get_thread_num())].data.data(),
                   result.row(first));
    }
  }
  comm.all_reduce(result.data.data(), result.data.data(), x.cols * y.cols, DType::f64, ReduceOp::sum);
  return result;
}

void remove_span(const Matrix<double>& q, Matrix<double>& tall, Communicator& comm, int threads) {
  if (q.cols == 0) return;
  Matrix<double> minus = inner_products(q, tall, comm, threads);
  for (double& each : minus.data) each = -each;
  for_each_block(tall.rows, threads, [&](int64_t begin, int64_t rows, int) {
    multiply(false, false, rows, tall.cols, q.cols, q.row(begin), q.cols, minus.data.data(), tall.cols,
             tall.row(begin), tall.cols, true);
  });
}

Orthonormalized orthonormalize(Matrix<double>& tall, Communicator& comm, int threads, int steps,
                               bool want_least) {
  const int64_t l = tall.cols;
  Orthonormalized outcome;
  if (l == 0) return outcome;
  for (int step = 0; step < steps; ++step) {
    const SymmetricTiles tiles = gram(tall, comm, threads);
    // On one rank for all: machines may differ in the last bits.
    Matrix<double> r;
    // Scales, the least singular value, and the condition, 0 for a failure.
    std::vector<double> head(static_cast<size_t>(l) + 2, 0.0);
    together(comm, [&] {
      r = Matrix<double>(l, l);
      if (comm.rank() != 0) return;
      tiles.copy({0, l}, {0, l}, r.data.data(), l);
      const BlasThreads single(1);
      std::vector<double> unscale;
      double condition = 0;
      if ((step > 0 && !nearly_identity(r)) || !factor(r, unscale, condition)) return;
      std::copy(unscale.begin(), unscale.end(), head.begin());
      if (step == 0 && want_least) head[static_cast<size_t>(l)] = least_singular_value(r, unscale);
      head.back() = condition;
    });
    comm.broadcast(head.data(), static_cast<int64_t>(head.size() * sizeof(double)), 0);
    if (step == 0) {
      outcome.condition = head.back() > 0 ? head.back() : kInfinity;
      outcome.least = head[static_cast<size_t>(l)];
    }
    if (head.back() == 0) {
      tall = tsqr(tall, comm, threads).q;
      outcome.by_tsqr = true;
      return outcome;
    }
    comm.broadcast(r.data.data(), l * l * static_cast<int64_t>(sizeof(double)), 0);
    // T·D·R⁻¹
    const int n = blas_int(l);
    for_each_block(tall.rows, threads, [&](int64_t begin, int64_t rows, int) {
      for (int64_t i = begin; i < begin + rows; ++i) {
        for (int64_t j = 0; j < l; ++j) tall(i, j) *= head[static_cast<size_t>(j)];
      }
      const int columns = static_cast<int>(rows);
      const double one = 1;
      dtrsm_("L", "L", "N", "N", &n, &columns, &one, r.data.data(), &n, tall.row(begin), &n);
    });
  }
  return outcome;
}

Orthonormalized orthonormalize_beside(const Matrix<double>& q, Matrix<double>& tall, Communicator& comm,
                                      int threads, int steps, bool want_least) {
  if (q.cols == 0) return orthonormalize(tall, comm, threads, steps, want_least);
  remove_span(q, tall, comm, threads);
  Orthonormalized outcome = orthonormalize(tall, comm, threads, 1, want_least);
  // Making small rests longer has made longer too what rounding left in them of Q's span: all, for columns
  // inside it.
  for (int again = 0; again < 2 && !outcome.by_tsqr; ++again) {
    remove_span(q, tall, comm, threads);
    outcome.by_tsqr = orthonormalize(tall, comm, threads, again == 0 ? 1 : steps).by_tsqr;
  }
  if (!outcome.by_tsqr) return outcome;
  // Arbitrary columns must be orthogonal to Q's too: the QR of both side by side only turns signs of Q's.
  Matrix<double> both(tall.rows, q.cols + tall.cols);
  for (int64_t i = 0; i < tall.rows; ++i) {
    std::copy_n(q.row(i), q.cols, both.row(i));
    std::copy_n(tall.row(i), tall.cols, both.row(i) + q.cols);
  }
  both = tsqr(both, comm, threads).q;
  for (int64_t i = 0; i < tall.rows; ++i) std::copy_n(both.row(i) + q.cols, tall.cols, tall.row(i));
  return outcome;
}

}  // namespace lamina::svd

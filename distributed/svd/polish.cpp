#include "distributed/svd/polish.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" void dgesvd_(const char*, const char*, const int*, const int*, double*, const int*, double*,
                        double*, const int*, double*, const int*, double*, const int*, int*);

namespace lamina::svd {
namespace {

constexpr int64_t kPanel = 64;  // of Q's columns that one task multiplies

// Powers of two above each column's largest magnitude; 0 for zeros.
std::vector<double> column_powers(const Matrix<double>& tall, Communicator& comm) {
  std::vector<double> most(static_cast<size_t>(tall.cols), 0.0);
  for (int64_t i = 0; i < tall.rows; ++i) {
    for (int64_t j = 0; j < tall.cols; ++j)
      most[static_cast<size_t>(j)] = std::max(most[static_cast<size_t>(j)], std::abs(tall(i, j)));
  }
  comm.all_reduce(most.data(), most.data(), tall.cols, DType::f64, ReduceOp::max);
  for (double& each : most) each = each > 0 ? std::exp2(std::ilogb(each) + 1) : 0;
  return most;
}

// QᵀT for Q with unit columns and T with elements up to 1, on every rank.
Matrix<double> inner_products(const Matrix<double>& q, const Matrix<double>& t, int64_t longer,
                              Communicator& comm, int threads) {
  Matrix<double> result;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  together(comm, [&] {
    result = Matrix<double>(q.cols, t.cols);
    for (Matrix<double>& each : scratch) each = Matrix<double>(kPanel, t.cols);
  });
  // Σ|q·t| ≤ ‖q‖·‖t‖, in blocks too.
  const double shift = exact_shift(1.01 * std::sqrt(static_cast<double>(longer)));
  const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t first = 0; first < q.cols; first += kPanel) {
    const int64_t height = std::min(kPanel, q.cols - first);
    double* product = scratch[static_cast<size_t>(omp_get_thread_num())].data.data();
    for (int64_t begin = 0; begin < q.rows; begin += kRowBlock) {
      multiply(true, false, height, t.cols, std::min(kRowBlock, q.rows - begin), q.row(begin) + first, q.cols,
               t.row(begin), t.cols, product, t.cols);
      add_on_grid(result.row(first), product, height * t.cols, shift);
    }
  }
  comm.all_reduce(result.data.data(), result.data.data(), q.cols * t.cols, DType::f64, ReduceOp::sum);
  return result;
}

// R = W·diag(values)·Zᵀ [l × r], l ≤ r: W [l × l] and Z [r × l], made on rank 0 and broadcast.
struct SmallSvd {
  std::vector<double> values;
  Matrix<double> left, right;
};
SmallSvd small_svd(Matrix<double> matrix, Communicator& comm) {
  const int64_t l = matrix.rows, r = matrix.cols;
  SmallSvd svd;
  together(comm, [&] {
    svd = {std::vector<double>(static_cast<size_t>(l)), Matrix<double>(l, l), Matrix<double>(r, l)};
    if (comm.rank() != 0 || l == 0) return;
    const BlasThreads single(1);
    // The row-major matrix is its transpose to LAPACK, so left and right change places.
    const int rows = blas_int(r), cols = blas_int(l);
    const int64_t least_work = 64 * (l + r) + 5 * l;
    const int work_size = blas_int(least_work);
    std::vector<double> work(static_cast<size_t>(work_size)), z(static_cast<size_t>(r * l));
    int info = 0;
    dgesvd_("S", "S", &rows, &cols, matrix.data.data(), &rows, svd.values.data(), z.data(), &rows,
            svd.left.data.data(), &cols, work.data(), &work_size, &info);
    if (info != 0)
      throw std::runtime_error(
          fmt::format("LAPACK's dgesvd failed on a {} × {} matrix (info {})", l, r, info));
    // Column-major Wᵀ is row-major W; Z's columns became rows.
    for (int64_t i = 0; i < r; ++i) {
      for (int64_t j = 0; j < l; ++j) svd.right(i, j) = z[static_cast<size_t>(j * r + i)];
    }
  });
  comm.broadcast(svd.values.data(), 8 * l, 0);
  comm.broadcast(svd.left.data.data(), 8 * l * l, 0);
  comm.broadcast(svd.right.data.data(), 8 * r * l, 0);
  return svd;
}

}  // namespace

Polished polish(Matrix<double>&& tall, int64_t longer, TimedCommunicator& comm, int threads) {
  const int64_t r = tall.cols;
  // Scaled columns are near orthonormal but for what rounding left of the least, so Cholesky does not fail on
  // the spread of the singular values.
  const std::vector<double> powers = column_powers(tall, comm);
  for (int64_t i = 0; i < tall.rows; ++i) {
    for (int64_t j = 0; j < r; ++j) {
      const double power = powers[static_cast<size_t>(j)];
      tall(i, j) = power > 0 ? tall(i, j) / power : 0;
    }
  }
  Matrix<double> q;
  together(comm, [&] { q = tall; });
  orthonormalize(q, comm, threads);
  Matrix<double> left = inner_products(q, tall, longer, comm, threads);
  tall = {};
  for (int64_t i = 0; i < left.rows; ++i) {
    for (int64_t j = 0; j < r; ++j) left(i, j) *= powers[static_cast<size_t>(j)];
  }
  const SmallSvd svd = small_svd(std::move(left), comm);

  const auto l = static_cast<int64_t>(svd.values.size());
  Polished result;
  result.values.assign(static_cast<size_t>(r), 0.0);
  // What counts as rank: LAPACK's max(m, n)·ε·σ₁.
  const double zero = l > 0 ? static_cast<double>(longer) * 0x1p-52 * svd.values[0] : 0;
  int64_t kept = 0;
  for (; kept < l && svd.values[static_cast<size_t>(kept)] > zero; ++kept)
    result.values[static_cast<size_t>(kept)] = svd.values[static_cast<size_t>(kept)];
  Matrix<double> rotation;
  together(comm, [&] {
    rotation = Matrix<double>(l, r);
    result.rotation = Matrix<double>(r, r);
  });
  for (int64_t j = 0; j < kept; ++j) {
    for (int64_t i = 0; i < l; ++i) rotation(i, j) = svd.left(i, j);
    for (int64_t i = 0; i < r; ++i) result.rotation(i, j) = svd.right(i, j);
  }
  together(comm, [&] { result.unit = times_small(q, rotation, threads); });
  return result;
}

}  // namespace lamina::svd

#include "distributed/svd/tall.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/exact_sum.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
            const int*, const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
            const int*, const double*, const int*, const double*, double*, const int*);
void dpotrf_(const char*, const int*, double*, const int*, int*);
void dtrtri_(const char*, const char*, const int*, double*, const int*, int*);
void dsyevd_(const char*, const char*, const int*, double*, const int*, double*, double*, const int*, int*,
             const int*, int*);
}

namespace lamina {
namespace {

// Columns of the Gram that one task computes.
constexpr int64_t kGramPanel = 64;
// Eigenvalues of a Gram below this share of the largest are rounding, of float64 sums and of float32 data.
constexpr double kDependent = 1e-13;

int64_t count_blocks(int64_t rows) {
  return (rows + kRowBlock - 1) / kRowBlock;
}

void broadcast(Matrix<double>& matrix, Communicator& comm) {
  int64_t shape[2] = {matrix.rows, matrix.cols};
  comm.broadcast(shape, sizeof(shape), 0);
  if (matrix.rows != shape[0] || matrix.cols != shape[1]) matrix = Matrix<double>(shape[0], shape[1]);
  comm.broadcast(matrix.data.data(), shape[0] * shape[1] * static_cast<int64_t>(sizeof(double)), 0);
}

// The inverse of the Gram's upper Cholesky factor, row-major; empty when the Gram is not safely positive
// definite.
Matrix<double> inverse_cholesky(const Matrix<double>& gram_matrix) {
  Matrix<double> factor = gram_matrix;
  const int n = blas_int(factor.rows);
  int info = 0;
  // Row-major upper is column-major lower.
  dpotrf_("L", &n, factor.data.data(), &n, &info);
  if (info != 0) return {};
  double least = factor(0, 0), most = factor(0, 0);
  for (int64_t i = 0; i < factor.rows; ++i) {
    least = std::min(least, factor(i, i));
    most = std::max(most, factor(i, i));
    for (int64_t j = 0; j < i; ++j) factor(i, j) = 0;
  }
  if (least * least <= kDependent * most * most) return {};
  dtrtri_("L", "N", &n, factor.data.data(), &n, &info);
  return info == 0 ? factor : Matrix<double>{};
}

}  // namespace

int blas_int(int64_t value) {
  if (value > std::numeric_limits<int>::max()) {
    throw std::invalid_argument(
        fmt::format("expected a size that fits BLAS's 32-bit count, found {}", value));
  }
  return static_cast<int>(value);
}

// A row-major product is the column-major one of the transposes in reverse order.
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  if (m == 0 || n == 0 || k == 0) return;
  const int im = blas_int(m), in = blas_int(n), ik = blas_int(k);
  const int ia = blas_int(lda), ib = blas_int(ldb), ic = blas_int(ldc);
  const float one = 1, beta = add ? 1 : 0;
  sgemm_(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c,
         &ic);
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double* a,
              int64_t lda, const double* b, int64_t ldb, double* c, int64_t ldc, bool add) {
  if (m == 0 || n == 0 || k == 0) return;
  const int im = blas_int(m), in = blas_int(n), ik = blas_int(k);
  const int ia = blas_int(lda), ib = blas_int(ldb), ic = blas_int(ldc);
  const double one = 1, beta = add ? 1 : 0;
  dgemm_(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c,
         &ic);
}

void for_each_block(int64_t rows, int threads, const std::function<void(int64_t, int64_t, int)>& work) {
  const BlasThreads single(1);
  const int64_t blocks = count_blocks(rows);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * kRowBlock;
    work(begin, std::min(kRowBlock, rows - begin), omp_get_thread_num());
  }
}

double max_abs(const Matrix<float>& slab, Communicator& comm) {
  float most = 0;
  bool finite = true;
#pragma omp simd reduction(max : most) reduction(& : finite)
  for (size_t i = 0; i < slab.data.size(); ++i) {
    const float magnitude = std::abs(slab.data[i]);
    finite &= magnitude <= std::numeric_limits<float>::max();
    most = std::max(most, magnitude);
  }
  return comm.max(finite ? most : std::numeric_limits<double>::infinity());
}

double ordered_sum(const std::vector<double>& blocks, Communicator& comm) {
  int64_t count = static_cast<int64_t>(blocks.size());
  std::vector<int64_t> counts(static_cast<size_t>(comm.size()));
  comm.all_gather(&count, counts.data(), std::vector<int64_t>(counts.size(), sizeof(int64_t)));
  int64_t total = 0;
  for (int64_t& bytes : counts) {
    total += bytes;
    bytes *= sizeof(double);
  }
  std::vector<double> all(static_cast<size_t>(total));
  comm.all_gather(blocks.data(), all.data(), counts);
  double sum = 0;
  for (const double value : all) sum += value;
  return sum;
}

Matrix<double> gram(const Matrix<double>& tall, Communicator& comm, int threads) {
  const int64_t l = tall.cols;
  std::vector<double> column_max(static_cast<size_t>(l), 0.0);
  for (int64_t i = 0; i < tall.rows; ++i) {
    for (int64_t j = 0; j < l; ++j) {
      column_max[static_cast<size_t>(j)] = std::max(column_max[static_cast<size_t>(j)], std::abs(tall(i, j)));
    }
  }
  comm.all_reduce(column_max.data(), column_max.data(), l, DType::f64, ReduceOp::max);
  const double rows = comm.sum(static_cast<double>(tall.rows));  // whole numbers: exact in any order
  // |Σ t_i·t_j| is at most rows·max_i·max_j; a power of two above each maximum keeps the shift's product
  // exact.
  std::vector<double> power(column_max);
  for (double& each : power) each = each > 0 ? std::exp2(std::ilogb(each) + 1) : 0;
  const double base_shift = exact_shift(1.01 * rows);

  Matrix<double> result(l, l);
  const BlasThreads single(1);
  const int64_t panels = (l + kGramPanel - 1) / kGramPanel;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  for (auto& each : scratch) each = Matrix<double>(kGramPanel, l);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t panel = 0; panel < panels; ++panel) {
    // Row panel of the upper triangle: columns from its first row on.
    const int64_t first = panel * kGramPanel;
    const int64_t height = std::min(kGramPanel, l - first);
    const int64_t width = l - first;
    double* product = scratch[static_cast<size_t>(omp_get_thread_num())].data.data();
    for (int64_t begin = 0; begin < tall.rows; begin += kRowBlock) {
      const int64_t depth = std::min(kRowBlock, tall.rows - begin);
      const double* block = tall.row(begin) + first;
      multiply(true, false, height, width, depth, block, l, block, l, product, width);
      for (int64_t i = 0; i < height; ++i) {
        const double row_shift = base_shift * power[static_cast<size_t>(first + i)];
        for (int64_t j = i; j < width; ++j) {
          const double shift = row_shift * power[static_cast<size_t>(first + j)];
          result(first + i, first + j) += on_grid(product[i * width + j], shift);
        }
      }
    }
  }
  comm.all_reduce(result.data.data(), result.data.data(), l * l, DType::f64, ReduceOp::sum);
  for (int64_t i = 0; i < l; ++i) {
    for (int64_t j = 0; j < i; ++j) result(i, j) = result(j, i);
  }
  return result;
}

Eigen symmetric_eigen(Matrix<double> matrix, Communicator& comm) {
  const int64_t l = matrix.rows;
  Eigen eigen;
  eigen.values.resize(static_cast<size_t>(l));
  if (l == 0) return eigen;
  std::string problem;
  if (comm.rank() == 0) {
    const BlasThreads single(1);
    const int n = blas_int(l);
    // The documented least sizes, which the query also returns: 1 + 6n + 2n² and 3 + 5n.
    const int work_size = blas_int(1 + 6 * l + 2 * l * l);
    const int int_size = blas_int(3 + 5 * l);
    std::vector<double> work(static_cast<size_t>(work_size));
    std::vector<int> int_work(static_cast<size_t>(int_size));
    int info = 0;
    dsyevd_("V", "U", &n, matrix.data.data(), &n, eigen.values.data(), work.data(), &work_size,
            int_work.data(), &int_size, &info);
    if (info != 0) problem = fmt::format("LAPACK's dsyevd failed on a {0} × {0} matrix (info {1})", l, info);
    // Column-major columns are row-major rows, smallest value first.
    eigen.vectors = Matrix<double>(l, l);
    for (int64_t i = 0; i < l; ++i) {
      for (int64_t j = 0; j < l; ++j) eigen.vectors(j, i) = matrix(l - 1 - i, j);
    }
    std::reverse(eigen.values.begin(), eigen.values.end());
  }
  comm.require(problem);
  broadcast(eigen.vectors, comm);
  comm.broadcast(eigen.values.data(), l * static_cast<int64_t>(sizeof(double)), 0);
  return eigen;
}

Matrix<double> times_small(const Matrix<double>& tall, const Matrix<double>& w, int threads) {
  Matrix<double> result(tall.rows, w.cols);
  if (w.cols == 0) return result;
  for_each_block(tall.rows, threads, [&](int64_t begin, int64_t rows, int) {
    multiply(false, false, rows, w.cols, w.rows, tall.row(begin), tall.cols, w.data.data(), w.cols,
             result.row(begin), w.cols);
  });
  return result;
}

void orthonormalize(Matrix<double>& tall, Communicator& comm, int threads, int steps) {
  for (int step = 0; step < steps && tall.cols > 0; ++step) {
    const int64_t l = tall.cols;
    std::vector<double> scale(static_cast<size_t>(l), 0.0);
    for (int64_t i = 0; i < tall.rows; ++i) {
      for (int64_t j = 0; j < l; ++j) {
        const double magnitude = std::abs(tall(i, j));
        double& most = scale[static_cast<size_t>(j)];
        most = magnitude <= std::numeric_limits<double>::max() ? std::max(most, magnitude)
                                                               : std::numeric_limits<double>::infinity();
      }
    }
    comm.all_reduce(scale.data(), scale.data(), l, DType::f64, ReduceOp::max);
    double most = 0;
    for (const double each : scale) most = std::max(most, each);
    if (!std::isfinite(most))
      throw AgreedError("svd: products of these weights overflow float32; scale them down");
    // Powers of two: columns of similar size make the better conditioned Gram, and lose nothing on the way.
    for (double& each : scale) each = each > 0 ? std::exp2(-std::ilogb(each)) : 0;
    for (int64_t i = 0; i < tall.rows; ++i) {
      for (int64_t j = 0; j < l; ++j) tall(i, j) *= scale[static_cast<size_t>(j)];
    }
    const Matrix<double> g = gram(tall, comm, threads);
    Matrix<double> transform;
    if (comm.rank() == 0) {
      const BlasThreads single(1);
      transform = inverse_cholesky(g);
    }
    broadcast(transform, comm);
    if (transform.rows == 0) {
      const Eigen eigen = symmetric_eigen(g, comm);
      int64_t kept = 0;
      while (kept < l && eigen.values[static_cast<size_t>(kept)] > kDependent * eigen.values[0]) ++kept;
      transform = Matrix<double>(l, kept);
      for (int64_t j = 0; j < kept; ++j) {
        const double inverse = 1 / std::sqrt(eigen.values[static_cast<size_t>(j)]);
        for (int64_t i = 0; i < l; ++i) transform(i, j) = eigen.vectors(i, j) * inverse;
      }
    }
    tall = times_small(tall, transform, threads);
  }
}

Matrix<float> gather_tall(const Matrix<double>& tall, const std::vector<Range>& rows, Communicator& comm) {
  std::vector<int64_t> bytes;
  for (const Range& range : rows)
    bytes.push_back(range.size() * tall.cols * static_cast<int64_t>(sizeof(float)));
  Matrix<float> own(tall.rows, tall.cols);
  std::transform(tall.data.begin(), tall.data.end(), own.data.begin(),
                 [](double x) { return static_cast<float>(x); });
  Matrix<float> all(rows.back().end, tall.cols);
  comm.all_gather(own.data.data(), all.data.data(), bytes);
  return all;
}

}  // namespace lamina

#include "distributed/svd/tall.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/compress/rows.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
            const int*, const float*, const int*, const float*, float*, const int*);
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*, const double*,
            const int*, const double*, const int*, const double*, double*, const int*);
}

namespace lamina {
namespace {

int64_t count_blocks(int64_t rows) {
  return (rows + kRowBlock - 1) / kRowBlock;
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
  if (m == 0 || n == 0) return;
  if (k == 0) {  // a rank without rows, of which BLAS would not take the strides
    for (int64_t i = 0; i < m && !add; ++i) std::fill_n(c + i * ldc, n, 0);
    return;
  }
  const int im = blas_int(m), in = blas_int(n), ik = blas_int(k);
  const int ia = blas_int(lda), ib = blas_int(ldb), ic = blas_int(ldc);
  const float one = 1, beta = add ? 1 : 0;
  sgemm_(transpose_b ? "T" : "N", transpose_a ? "T" : "N", &in, &im, &ik, &one, b, &ib, a, &ia, &beta, c,
         &ic);
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double* a,
              int64_t lda, const double* b, int64_t ldb, double* c, int64_t ldc, bool add) {
  if (m == 0 || n == 0) return;
  if (k == 0) {  // a rank without rows, of which BLAS would not take the strides
    for (int64_t i = 0; i < m && !add; ++i) std::fill_n(c + i * ldc, n, 0);
    return;
  }
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

double max_abs(const Matrix<float>& slab, Communicator& comm, int threads) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  const auto count = static_cast<int64_t>(slab.data.size());
  double most = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(max : most)
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    // Its bits are in the order of magnitudes, of infinity above all numbers and NaN above that.
    const float of_piece = largest_magnitude(slab.data.data() + begin, std::min(kPiece, count - begin));
    most = std::max(most, std::isfinite(of_piece) ? of_piece : std::numeric_limits<double>::infinity());
  }
  return comm.max(most);
}

Matrix<double> transposed(const Matrix<double>& rows) {
  Matrix<double> result(rows.cols, rows.rows);
  for (int64_t i = 0; i < rows.rows; ++i) {
    for (int64_t j = 0; j < rows.cols; ++j) result(j, i) = rows(i, j);
  }
  return result;
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

double squares(const Matrix<double>& tall, Communicator& comm) {
  std::vector<double> blocks(static_cast<size_t>((tall.rows + kRowBlock - 1) / kRowBlock), 0.0);
  for (int64_t i = 0; i < tall.rows; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < tall.cols; ++j) sum += tall(i, j) * tall(i, j);
    blocks[static_cast<size_t>(i / kRowBlock)] += sum;
  }
  return ordered_sum(blocks, comm);
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

}  // namespace lamina

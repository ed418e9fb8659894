// Products and sums of matrices spread over ranks by rows, for the factorisations, in blocks of kRowBlock
// rows at fixed places of the whole matrix, one BLAS call of fixed shape each on one thread: results are
// bitwise the same for any number of ranks and threads.
#pragma once

#include <functional>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/compress.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// For BLAS and LAPACK. Throws std::invalid_argument when it does not fit.
int blas_int(int64_t value);

// Row-major C[m×n] = op(A)·op(B), with the leading dimensions of the row-major storage. `add`: C += …
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, bool add = false);
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double* a,
              int64_t lda, const double* b, int64_t ldb, double* c, int64_t ldc, bool add = false);

// Calls work(first_row, rows, thread) for each block of kRowBlock of the `rows` local rows, over OpenMP
// threads. The slab must begin at a multiple of kRowBlock of the whole, and `work` must not throw.
void for_each_block(int64_t rows, int threads, const std::function<void(int64_t, int64_t, int)>& work);

// Largest |element| over all ranks; infinity when any is not finite. Collective.
double max_abs(const Matrix<float>& slab, Communicator& comm, int threads = 1);
// The ordered sum of per-block values, each rank's consecutive, in rank order. Collective.
double ordered_sum(const std::vector<double>& blocks, Communicator& comm);

// ‖T‖², Frobenius, over all ranks' rows. Collective.
double squares(const Matrix<double>& tall, Communicator& comm);

// Its columns as rows.
Matrix<double> transposed(const Matrix<double>& rows);

// T·W, for W [l × r].
Matrix<double> times_small(const Matrix<double>& tall, const Matrix<double>& w, int threads);

}  // namespace lamina

// Inner products and orthonormal columns of tall float64 matrices that are spread over ranks by rows, whole
// blocks of kRowBlock to a rank. Sums are exact (exact_sum.hpp) over these blocks, each multiplied by BLAS
// calls of fixed shapes on one thread: all results are bitwise the same for any number of ranks and threads.
#pragma once

#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/svd/symmetric.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// to[i] += from[i] as a multiple of the grid that `shift` stands for (exact_sum.hpp).
void add_on_grid(double* to, const float* from, int64_t count, double shift);
void add_on_grid(double* to, const double* from, int64_t count, double shift);

// TᵀT [l × l] on every rank. Collective; AgreedError when T is not finite.
SymmetricTiles gram(const Matrix<double>& tall, Communicator& comm, int threads);

// XᵀY where it is about symmetric, by its upper half. Collective; AgreedError when one is not finite.
SymmetricTiles symmetric_products(const Matrix<double>& x, const Matrix<double>& y, Communicator& comm,
                                  int threads);

// XᵀY on every rank, of matrices spread alike. Collective; AgreedError when one is not finite.
Matrix<double> inner_products(const Matrix<double>& x, const Matrix<double>& y, Communicator& comm,
                              int threads);

// T − Q·(QᵀT). Collective.
void remove_span(const Matrix<double>& q, Matrix<double>& tall, Communicator& comm, int threads);

struct Orthonormalized {
  // Largest over smallest element of R's diagonal, T's columns scaled to alike lengths: about T's condition,
  // or less. Infinite where Cholesky failed.
  double condition = 1;
  // About T's smallest singular value, or more; 0 where it was not asked for or Cholesky failed.
  double least = 0;
  bool by_tsqr = false;  // whether Cholesky QR would not do
};

// T's columns made orthonormal, as many as there are: by Cholesky twice (CholeskyQR2: Yamamoto, Nakatsukasa,
// Yanagisawa, Fukaya 2015), or once where only the span counts and orthonormal to a few digits is enough
// (`steps`). By TSQR where Cholesky fails or T's condition is past what it bears: then too columns are
// orthonormal to float64's precision, whatever T's rank, and those beyond it are arbitrary. T has as many
// rows as columns, or more. Collective; AgreedError when T is not finite.
Orthonormalized orthonormalize(Matrix<double>& tall, Communicator& comm, int threads, int steps = 2,
                               bool want_least = false);

// The same of T's part outside the span of Q's orthonormal columns, to which it becomes orthogonal.
Orthonormalized orthonormalize_beside(const Matrix<double>& q, Matrix<double>& tall, Communicator& comm,
                                      int threads, int steps = 2, bool want_least = false);

// What Cholesky QR's steps share with those on a GPU.
// It keeps its columns orthonormal while κ²·2^-53 is well below 1; R's diagonal shows a part of κ.
inline constexpr double kWorstCondition = 1e6;
// Powers of two that scale columns with these squared lengths to alike ones; empty where one is no length.
std::vector<double> alike_lengths(const std::vector<double>& squares);
// Largest over smallest.
double spread_of(const std::vector<double>& diagonal);
// Whether a first step has left a Gram matrix [l × l] near enough to I, of which the upper triangle counts.
bool nearly_identity(const Matrix<double>& gram);
// About T's, or more, by inverse iteration with RᵀR, R in the upper triangle, of T's columns scaled so.
double least_singular_value(const Matrix<double>& r, const std::vector<double>& scale);

}  // namespace lamina::svd

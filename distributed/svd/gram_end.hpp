// How gram ends, on the host and on GPUs: both factors from eigenvectors of the smaller side and from A's
// products with them.
#pragma once

#include "distributed/svd/method.hpp"

namespace lamina::svd {

// Both factors, of the smaller side and of the longer one, as they stand by their sides' shares.
struct Factored {
  Matrix<float> small, longer;
  std::vector<double> sigma;
  double projected = 0;  // ‖T‖² of what is kept
  double lost = 0;       // what ‖T‖ may be off by, more than float64 is
};

// √λ of the first r eigenvalues.
std::vector<double> roots(const std::vector<double>& values, int64_t r);
// Whether T must be made orthonormal: see polish.hpp.
bool needs_polish(const std::vector<double>& sigma);
// This rank's rows `share` of V·W, in float32: of `vectors` [r × smaller side] V's columns.
Matrix<float> small_times(const Matrix<double>& vectors, Range share, const Matrix<double>& w, int threads);
// U, V and σ from T made orthonormal: of `tall` [this rank's share of the longer side × r] = A·V, or Aᵀ·V,
// with `vectors` [r × smaller side] V's columns, the same on every rank. Collective.
Factored polished(Matrix<double>&& tall, const Matrix<double>& vectors, int64_t longer,
                  TimedCommunicator& comm, int threads);
// Fills all but phases and who solved. `values`: the eigenvalues that are known.
void conclude(const Input& input, bool long_is_rows, const std::vector<double>& values, Factored&& factored,
              SvdResult& result);

}  // namespace lamina::svd

// Singular vectors that the Gram matrix alone leaves inaccurate.
#pragma once

#include <vector>

#include "distributed/svd/method.hpp"

namespace lamina::svd {

// The Gram matrix' eigenvalues carry errors of about ε·σ₁², so columns i and j of T = A·V are orthogonal only
// to ε·σ₁²/(σ_i·σ_j): below this share of σ₁ that would show in float32, and T is to be polished.
inline constexpr double kPolishBelow = 1e-4;

// T = Q·S·Zᵀ, all float64: T's span made orthonormal, and the singular value decomposition of the small
// matrix that is left.
struct Polished {
  Matrix<double> unit;         // [T's rows × r]; a column of zeros where its value is 0
  std::vector<double> values;  // r, largest first; 0 below rounding of the largest
  Matrix<double> rotation;     // [r × r]: V's columns are to be multiplied by it; zeros as in `unit`
};
// `tall` is spread by rows over ranks, in whole blocks; `longer` their rows together. Sums are exact, so that
// results are bitwise the same for any number of ranks. Collective. AgreedError when LAPACK fails.
Polished polish(Matrix<double>&& tall, int64_t longer, TimedCommunicator& comm, int threads);

}  // namespace lamina::svd

// A matrix factorised on one GPU, all in float64: the Gram matrix of its smaller side by cuBLAS, that one's
// eigenvectors by cuSOLVER, and the product with them. Built from absent/ where CUDA or cuSOLVER is not.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/matrix.hpp"

namespace lamina {

// Why it cannot be had here, and what brings it; empty when it can.
std::string gram_factors_absent();

struct GramFactors {
  std::vector<double> values;  // all eigenvalues, largest first
  Matrix<double> vectors;      // [r × smaller side], orthonormal rows
  Matrix<double> tall;         // [longer side × r]: A, or its transpose, by them
  double multiply_s = 0, solve_s = 0;
};
// `rank_of` chooses r from the eigenvalues. Throws DeviceError where there is no GPU or too little memory on
// it.
GramFactors gram_factors(const Matrix<float>& a,
                         const std::function<int64_t(const std::vector<double>&)>& rank_of);

}  // namespace lamina

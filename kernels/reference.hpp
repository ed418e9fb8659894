// The float64 reference that every kernel is held against.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activations.hpp"
#include "kernels/compress/canonical.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// The activations a kernel multiplies, as float64: x itself, x rounded to bfloat16, or the dequantized int8
// codes, each row quantized in the segments of K given by `cuts` (a row shard quantizes its own part of K;
// {0, K} when K is whole; the other rules ask for none). Uses the same float32 arithmetic as the rule states,
// so that codes agree exactly.
Matrix<double> reference_activations(const Matrix<float>& x, ActivationRule rule,
                                     const std::vector<int64_t>& cuts);

// y[s][i] = Σ_k x[s][k]·w[i][k] and bound[s][i] = Σ_k xabs[s][k]·|w[i][k]| for the leaf's own rows and all
// its columns.
struct ReferenceProduct {
  Matrix<double> y;      // [S × leaf.rows]
  Matrix<double> bound;  // [S × leaf.rows]
};
ReferenceProduct reference_product(const Leaf& leaf, const Matrix<double>& x, const Matrix<double>& xabs,
                                   int threads);

// The same with original weights: rows [n × K] of float32.
Matrix<double> reference_product(const Matrix<float>& rows, const Matrix<double>& x, int threads);

// The element-wise tolerance of a float32-accumulating kernel is kCheckFactor · 2⁻²³ · Σ|x||w|.
inline constexpr double kCheckFactor = 8.0;
inline constexpr double kFloat32Epsilon = 1.1920928955078125e-07;

}  // namespace lamina

// The float64 reference that every kernel is held against.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/activations.hpp"
#include "kernels/compress/canonical.hpp"
#include "kernels/layer.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// The activations a kernel multiplies, as float64: x itself, x rounded to bfloat16, or the dequantized int8
// codes, each row quantized in the segments of K given by `cuts` (a row shard quantizes its own part of K;
// {0, K} when K is whole; the other rules ask for none). Uses the same float32 arithmetic as the rule states,
// so that codes agree exactly.
Matrix<double> reference_activations(const Matrix<float>& x, ActivationRule rule,
                                     const std::vector<int64_t>& cuts);

// The same for a leaf, whole or the part of K that x is: kernels divide by its input scales, in float32,
// before they quantize; the weights' formula divides again, so these are multiplied by them. Where nothing is
// quantized, a kernel that reads its input as less than float32 rounds to that once more behind the division.
Matrix<double> reference_activations(const Matrix<float>& x, const Leaf& leaf,
                                     const std::vector<int64_t>& cuts, InputType input = InputType::f32);

// What a product is taken of, each [S × K]: x, |x| and x². A row need not be one token: see
// check_tolerance().
struct ProductInput {
  Matrix<double> values, magnitudes, squares;
  bool operator==(const ProductInput& other) const;
};
// Of rows that are tokens.
ProductInput product_input(Matrix<double> x);

// y[s][i] = Σ_k x[s][k]·w[i][k] for the leaf's own rows and all its columns, and what its tolerance is made
// of: the same sums of magnitudes, |x|·|w|, and of squares, x²·w².
struct ReferenceProduct {
  Matrix<double> y, magnitudes, squares;  // [S × leaf.rows]
  int64_t cols = 0;                       // K
  // Of a row that is a token.
  double tolerance(int64_t s, int64_t i) const;
};
// `rounds`: of weights as dequantize_row() rounds them.
ReferenceProduct reference_product(const Leaf& leaf, const ProductInput& input, int threads,
                                   bool rounds = false);

// The same with original weights: rows [n × K] of float32.
Matrix<double> reference_product(const Matrix<float>& rows, const Matrix<double>& x, int threads);

inline constexpr double kFloat32Epsilon = 1.1920928955078125e-07;  // 2u, where u = 2⁻²⁴

// How far a float32 sum of `cols` products may be from `y`, their exact sum, whatever the order it is taken
// in:
//
//   max(kCheckFactor · ε · Σ|x||w|, min(λ · √cols · u · (|y| + λ · √Σ(xw)²), cols · u · Σ|x||w|))
//
// The first is for what every kernel rounds beside its sum. The second is the probabilistic bound of Higham
// and Mary ("A new approach to probabilistic rounding error analysis", 2019; "Sharper probabilistic backward
// error analysis for basic linear algebra kernels with random data", 2020): each addition rounds at random by
// at most u times the sum so far, which is seldom further than λ · √Σ(xw)² from its way to y, so that errors
// grow with √cols. It is the larger one where a few products, or a common sign, dominate all sums. The third
// is the worst case. λ = 2 is twice what float32 sums, one product after another, were seen to need where
// signs vary.
//
// For Σ_t ±y_t of several tokens: |y| summed over them, Σ|x||w| too, and Σ(xw)² times their number (by Cauchy
// and Schwarz no smaller than the square of the summed roots).
double check_tolerance(double y, double magnitudes, double squares, int64_t cols);
inline constexpr double kCheckFactor = 8.0;
inline constexpr double kCheckDeviations = 2.0;  // λ

// silu(gate)·up, as SwiGLU has it between an MLP's projections.
double silu_gate_reference(double gate, double up);

}  // namespace lamina

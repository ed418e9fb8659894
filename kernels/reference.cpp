// Plain float64 arithmetic, shared with no kernel: what this file says is what kernels are held to.
#include "kernels/reference.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "kernels/wide.hpp"

namespace lamina {
namespace {

// Eight partial sums, so that the compiler may use vectors without reordering anything itself.
constexpr int64_t kLanes = 8;
// Columns at a time: a block of one row of weights and of a few tokens stays in the first-level cache.
constexpr int64_t kBlock = 512;

typedef double Lanes __attribute__((vector_size(kLanes * sizeof(double))));

// sums[s] += Σ_k x[s·stride + k]·w[k] for `tokens` tokens; any k.
LAMINA_WIDE void accumulate(const double* w, const double* x, int64_t stride, int64_t tokens, int64_t k,
                            double* sums) {
  for (int64_t s = 0; s < tokens; ++s) {
    const double* xs = x + s * stride;
    Lanes even = {}, odd = {};
    int64_t i = 0;
    for (; i + 2 * kLanes <= k; i += 2 * kLanes) {
      Lanes w0, w1, x0, x1;
      std::memcpy(&w0, w + i, sizeof w0);
      std::memcpy(&w1, w + i + kLanes, sizeof w1);
      std::memcpy(&x0, xs + i, sizeof x0);
      std::memcpy(&x1, xs + i + kLanes, sizeof x1);
      even += w0 * x0;
      odd += w1 * x1;
    }
    double sum = 0;
    for (; i < k; ++i) sum += w[i] * xs[i];
    even += odd;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += even[lane];
    sums[s] += sum;
  }
}

// y[s][i] = Σ_k x[s][k]·w_i[k] over one row of weights, in blocks of columns.
void product_row(const double* w, const Matrix<double>& x, int64_t row, Matrix<double>& y, double* sums) {
  std::fill(sums, sums + x.rows, 0.0);
  for (int64_t k = 0; k < x.cols; k += kBlock)
    accumulate(w + k, x.data.data() + k, x.cols, x.rows, std::min(kBlock, x.cols - k), sums);
  for (int64_t s = 0; s < x.rows; ++s) y(s, row) = sums[s];
}

// The bf16 rule, by arithmetic where kernels shift bits: 8 bits of fraction, the first included.
double nearest_bfloat16(float value) {
  if (!std::isfinite(value)) return value;
  if (std::fabs(value) < kSmallestActivation) return 0;
  constexpr double kLargest = 0x1.fep127;
  int exponent = 0;
  const double fraction = std::frexp(static_cast<double>(value), &exponent);
  return std::clamp(std::ldexp(std::nearbyint(fraction * 256), exponent - 8), -kLargest, kLargest);
}

// The nearest e4m3, by arithmetic: 4 bits of fraction, the first included, and no finer than 2⁻⁹.
double nearest_e4m3(double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const double unit = std::ldexp(1.0, std::max(exponent - 4, -9));
  return std::clamp(std::nearbyint(value / unit) * unit, -448.0, 448.0);
}

void expect_columns(const char* what, int64_t expected, int64_t found) {
  if (expected != found)
    throw std::invalid_argument(
        fmt::format("reference: expected {} of {} columns, found {}", what, expected, found));
}

}  // namespace

Matrix<double> reference_activations(const Matrix<float>& x, ActivationRule rule,
                                     const std::vector<int64_t>& cuts) {
  Matrix<double> out(x.rows, x.cols);
  if (rule == ActivationRule::f32) {
    std::copy(x.data.begin(), x.data.end(), out.data.begin());
    return out;
  }
  if (rule == ActivationRule::bf16) {
    std::transform(x.data.begin(), x.data.end(), out.data.begin(), nearest_bfloat16);
    return out;
  }
  if (cuts.size() < 2 || cuts.front() != 0 || cuts.back() != x.cols ||
      !std::is_sorted(cuts.begin(), cuts.end()))
    throw std::invalid_argument(fmt::format("reference: expected ascending cuts from 0 to {}", x.cols));
  for (int64_t s = 0; s < x.rows; ++s) {
    for (size_t c = 0; c + 1 < cuts.size(); ++c) {
      float amax = 0;
      bool finite = true;
      for (int64_t k = cuts[c]; k < cuts[c + 1]; ++k) {
        amax = std::max(amax, std::fabs(x(s, k)));
        finite = finite && std::isfinite(x(s, k));
      }
      if (!finite) {
        std::fill(out.row(s) + cuts[c], out.row(s) + cuts[c + 1], std::numeric_limits<double>::quiet_NaN());
        continue;
      }
      // Below this 127/amax is no finite float: such a segment counts as zero.
      if (amax < kSmallestActivation) continue;
      const float largest = rule == ActivationRule::fp8_per_token ? 448.0f : 127.0f;
      const float inverse = largest / amax;
      const float scale = amax / largest;
      for (int64_t k = cuts[c]; k < cuts[c + 1]; ++k) {
        const float scaled = x(s, k) * inverse;
        const double code = rule == ActivationRule::fp8_per_token
                                ? nearest_e4m3(scaled)
                                : std::clamp(std::nearbyint(scaled), -127.0f, 127.0f);
        out(s, k) = code * static_cast<double>(scale);
      }
    }
  }
  return out;
}

Matrix<double> reference_activations(const Matrix<float>& x, const Leaf& leaf,
                                     const std::vector<int64_t>& cuts, InputType input) {
  if (leaf.input_scales.empty()) return reference_activations(x, leaf.activation, cuts);
  Matrix<float> divided = x;
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t k = 0; k < x.cols; ++k) divided(t, k) /= leaf.input_scales[static_cast<size_t>(k)];
  if (leaf.activation == ActivationRule::f32)
    for (float& value : divided.data) value = rounded_input(value, input);
  Matrix<double> seen = reference_activations(divided, leaf.activation, cuts);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t k = 0; k < x.cols; ++k) seen(t, k) *= leaf.input_scales[static_cast<size_t>(k)];
  return seen;
}

bool ProductInput::operator==(const ProductInput& other) const {
  return values.data == other.values.data && magnitudes.data == other.magnitudes.data &&
         squares.data == other.squares.data;
}

ProductInput product_input(Matrix<double> x) {
  ProductInput input{std::move(x), {}, {}};
  input.magnitudes = input.squares = input.values;
  for (double& value : input.magnitudes.data) value = std::fabs(value);
  for (double& value : input.squares.data) value *= value;
  return input;
}

double ReferenceProduct::tolerance(int64_t s, int64_t i) const {
  return check_tolerance(std::fabs(y(s, i)), magnitudes(s, i), squares(s, i), cols);
}

namespace {

// Of a row of weights with zero points, what a kernel adds up: codes and zero points apart, w = s·q − s·z,
// whose sums each round, however near to 0 their difference is.
void magnitudes_of_parts(const Leaf& leaf, int64_t row, double* magnitudes) {
  for (int64_t j = 0; j < leaf.cols; ++j) {
    const auto at = static_cast<size_t>(row * leaf.cols + j);
    const auto group = static_cast<size_t>(row * leaf.groups() + j / leaf.group);
    const double codes = std::abs(int{leaf.codes[at]}) + std::abs(int{leaf.zero_points[group]});
    magnitudes[j] = std::fabs(static_cast<double>(leaf.scales[group])) * codes;
    if (!leaf.input_scales.empty())
      magnitudes[j] /= std::fabs(static_cast<double>(leaf.input_scales[static_cast<size_t>(j)]));
    if (!leaf.mask.empty() && leaf.mask[at] == 0) magnitudes[j] = 0;
  }
}

}  // namespace

ReferenceProduct reference_product(const Leaf& leaf, const ProductInput& input, int threads, bool rounds) {
  check_leaf(leaf);
  expect_columns("activations", leaf.cols, input.values.cols);
  expect_columns("activations' magnitudes", leaf.cols, input.magnitudes.cols);
  expect_columns("activations' squares", leaf.cols, input.squares.cols);
  const auto empty = [&](const Matrix<double>& x) { return Matrix<double>(x.rows, leaf.rows); };
  ReferenceProduct product{empty(input.values), empty(input.magnitudes), empty(input.squares), leaf.cols};
#pragma omp parallel num_threads(std::max(threads, 1)) if (threads > 1)
  {
    std::vector<double> w(static_cast<size_t>(leaf.cols));
    std::vector<double> sums(
        static_cast<size_t>(std::max({input.values.rows, input.magnitudes.rows, input.squares.rows})));
#pragma omp for schedule(static)
    for (int64_t i = 0; i < leaf.rows; ++i) {
      dequantize_row(leaf, i, w.data(), rounds);
      product_row(w.data(), input.values, i, product.y, sums.data());
      for (double& value : w) value = std::fabs(value);
      if (!leaf.zero_points.empty()) magnitudes_of_parts(leaf, i, w.data());
      product_row(w.data(), input.magnitudes, i, product.magnitudes, sums.data());
      for (double& value : w) value *= value;
      product_row(w.data(), input.squares, i, product.squares, sums.data());
    }
  }
  return product;
}

double check_tolerance(double y, double magnitudes, double squares, int64_t cols) {
  const auto terms = static_cast<double>(cols);
  constexpr double kRounding = kFloat32Epsilon / 2;
  const double likely = kCheckDeviations * std::sqrt(terms) * kRounding *
                        (std::fabs(y) + kCheckDeviations * std::sqrt(squares));
  // In this order, a y that is no number leaves the other two.
  return std::max(kCheckFactor * kFloat32Epsilon * magnitudes,
                  std::min(terms * kRounding * magnitudes, likely));
}

Matrix<double> reference_product(const Matrix<float>& rows, const Matrix<double>& x, int threads) {
  expect_columns("activations", rows.cols, x.cols);
  Matrix<double> y(x.rows, rows.rows);
#pragma omp parallel num_threads(std::max(threads, 1)) if (threads > 1)
  {
    std::vector<double> w(static_cast<size_t>(rows.cols));
    std::vector<double> sums(static_cast<size_t>(x.rows));
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows.rows; ++i) {
      std::copy(rows.row(i), rows.row(i) + rows.cols, w.begin());
      product_row(w.data(), x, i, y, sums.data());
    }
  }
  return y;
}

double silu_gate_reference(double gate, double up) {
  return gate / (1 + std::exp(-gate)) * up;
}

}  // namespace lamina

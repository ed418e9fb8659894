#include "kernels/reference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

TEST(ReferenceActivations, FollowTheRule) {
  Matrix<float> x(3, 4);
  x.data = {127.0f, 0.5f, 1.5f, -2.5f,   // scale 1: ties go to even
            0.0f,   0.0f, 0.0f, 0.0f,    // zeros
            -2.54f, 1.0f, 0.0f, 2.54f};  // scale 0.02
  const Matrix<double> q = reference_activations(x, ActivationRule::int8_per_token, {0, 4});
  EXPECT_EQ(q(0, 0), 127.0);
  EXPECT_EQ(q(0, 1), 0.0);
  EXPECT_EQ(q(0, 2), 2.0);
  EXPECT_EQ(q(0, 3), -2.0);
  for (int j = 0; j < 4; ++j) EXPECT_EQ(q(1, j), 0.0);
  EXPECT_NEAR(q(2, 0), -2.54, 1e-6);
  EXPECT_NEAR(q(2, 1), 1.0, 1e-6);
}

TEST(ReferenceActivations, QuantizeEachCutAlone) {
  Matrix<float> x(1, 4);
  x.data = {1.0f, 0.3f, 100.0f, 1.0f};
  const Matrix<double> whole = reference_activations(x, ActivationRule::int8_per_token, {0, 4});
  const Matrix<double> cut = reference_activations(x, ActivationRule::int8_per_token, {0, 2, 2, 4});
  EXPECT_EQ(whole(0, 1), 0.0) << "drowned by the outlier";
  EXPECT_NEAR(cut(0, 1), 0.3, 0.004);
  EXPECT_NEAR(cut(0, 0), 1.0, 1e-6);
  EXPECT_EQ(reference_activations(x, ActivationRule::f32, {})(0, 1), static_cast<double>(0.3f));
  EXPECT_THROW(reference_activations(x, ActivationRule::int8_per_token, {0, 3}), std::invalid_argument);
  EXPECT_THROW(reference_activations(x, ActivationRule::int8_per_token, {0, 3, 2, 4}), std::invalid_argument);
}

// Divided in float32, then rounded to what the kernel reads, unless they are quantized.
TEST(ReferenceActivations, RoundBehindInputScales) {
  Matrix<float> x(1, 2);
  x(0, 0) = 1.0f;
  x(0, 1) = -5.0f;
  Leaf leaf;
  leaf.input_scales = {3.0f, 0.5f};
  const float third = 1.0f / 3.0f;
  EXPECT_EQ(reference_activations(x, leaf, {0, 2})(0, 0), static_cast<double>(third) * 3);
  const Matrix<double> rounded = reference_activations(x, leaf, {0, 2}, InputType::bf16);
  EXPECT_EQ(rounded(0, 0), 0x1.56p-2 * 3);
  EXPECT_EQ(rounded(0, 1), -10.0 * 0.5);
  leaf.activation = ActivationRule::int8_per_token;
  EXPECT_EQ(reference_activations(x, leaf, {0, 2}, InputType::bf16).data,
            reference_activations(x, leaf, {0, 2}).data);
}

TEST(ReferenceActivations, TinyTokensAreZero) {
  Matrix<float> x(1, 2);
  x.data = {1e-38f, -1e-39f};
  const Matrix<double> q = reference_activations(x, ActivationRule::int8_per_token, {0, 2});
  EXPECT_EQ(q(0, 0), 0.0);
  EXPECT_EQ(q(0, 1), 0.0);
}

// Against the plainest loop there is, over sizes that leave tails everywhere.
TEST(ReferenceProduct, IsTheSumOfProducts) {
  for (int64_t cols : {1, 15, 16, 17, 511, 513, 1100}) {
    Problems problems;
    const auto scheme = make_scheme("dense", {}, {7, cols}, problems);
    const Canonical weights = compress_whole(*scheme, random_matrix(7, cols, 1));
    const Matrix<double> x = reference_activations(random_matrix(5, cols, 2), ActivationRule::f32, {});
    for (int threads : {1, 2}) {
      const ReferenceProduct product = reference_product(weights.leaves[0], product_input(x), threads);
      const Matrix<double> original = reference_product(random_matrix(7, cols, 1), x, threads);
      for (int64_t s = 0; s < 5; ++s) {
        for (int64_t i = 0; i < 7; ++i) {
          double sum = 0, bound = 0, squares = 0;
          for (int64_t k = 0; k < cols; ++k) {
            const double w = weights.leaves[0].values[static_cast<size_t>(i * cols + k)];
            sum += x(s, k) * w;
            bound += std::fabs(x(s, k)) * std::fabs(w);
            squares += x(s, k) * w * x(s, k) * w;
          }
          EXPECT_NEAR(product.y(s, i), sum, 1e-13 * bound);
          EXPECT_NEAR(product.magnitudes(s, i), bound, 1e-13 * bound);
          EXPECT_NEAR(product.squares(s, i), squares, 1e-13 * squares);
          EXPECT_NEAR(original(s, i), sum, 1e-13 * bound);
        }
      }
    }
  }
}

TEST(ReferenceProduct, RefusesOtherSizes) {
  EXPECT_THROW(reference_product(Matrix<float>(2, 3), Matrix<double>(1, 4), 1), std::invalid_argument);
  Leaf leaf;
  leaf.rows = 2;
  leaf.cols = 3;
  leaf.values.resize(6);
  const Matrix<double> right(1, 3), wrong(1, 2);
  EXPECT_THROW(reference_product(leaf, {right, wrong, right}, 1), std::invalid_argument);
  EXPECT_THROW(reference_product(leaf, {right, right, wrong}, 1), std::invalid_argument);
  leaf.values.pop_back();
  EXPECT_THROW(reference_product(leaf, product_input(right), 1), std::invalid_argument);
}

TEST(ReferenceProduct, TakesEmptyParts) {
  Leaf leaf;
  leaf.rows = 3;
  const ReferenceProduct product = reference_product(leaf, product_input(Matrix<double>(2, 0)), 1);
  EXPECT_EQ(product.y.rows, 2);
  for (double value : product.y.data) EXPECT_EQ(value, 0.0);
}

// One output feature's sum in float32, product after product.
float plain_sum(const float* x, const float* w, int64_t cols) {
  float sum = 0;
  for (int64_t k = 0; k < cols; ++k) sum = std::fma(x[k], w[k], sum);
  return sum;
}

struct ToleranceCase {
  Leaf leaf;
  Matrix<float> x;
  ReferenceProduct reference;
  double rounding(int64_t row) const {  // of the plain sum
    return std::fabs(plain_sum(x.row(0), leaf.values.data() + row * leaf.cols, leaf.cols) -
                     reference.y(0, row));
  }
};

// The first activation is `outlier` times as large as the others.
ToleranceCase tolerance_case(int64_t cols, float outlier, bool positive = false) {
  constexpr int64_t kRows = 16;
  Problems problems;
  ToleranceCase one;
  Matrix<float> w = random_matrix(kRows, cols, 1, 0.02f);
  one.x = random_matrix(1, cols, 2);
  one.x(0, 0) = outlier;
  for (Matrix<float>* matrix : {&w, &one.x})
    for (float& value : matrix->data) value = positive ? std::fabs(value) : value;
  one.leaf = compress_whole(*make_scheme("dense", {}, {kRows, cols}, problems), w).leaves[0];
  one.reference = reference_of(one.leaf, one.x);
  return one;
}

// As much as the plainest float32 sum needs, up to the widest models and an outlier that all of a sum rounds
// after, and nothing more where no product dominates.
TEST(CheckTolerance, CoversHonestSums) {
  int beyond = 0;  // what Σ|x||w| alone would not have let pass
  for (int64_t cols : {16, 4096, 53248}) {
    for (float outlier : {1.0f, 30.0f, 1e3f, 1e4f, 1e6f}) {
      for (bool positive : {false, true}) {
        const ToleranceCase one = tolerance_case(cols, outlier, positive);
        for (int64_t row = 0; row < one.leaf.rows; ++row) {
          const double plain = kCheckFactor * kFloat32Epsilon * one.reference.magnitudes(0, row);
          EXPECT_LE(one.rounding(row), (positive ? 1 : 0.5) * one.reference.tolerance(0, row))
              << cols << " columns, outlier " << outlier << (positive ? ", positive" : "");
          beyond += one.rounding(row) > plain ? 1 : 0;
          if (outlier <= 30 && !positive) {
            EXPECT_LE(one.reference.tolerance(0, row), 1.2 * plain);
          }
          EXPECT_LE(one.reference.tolerance(0, row),
                    static_cast<double>(std::max<int64_t>(cols, 16)) * plain / 16);
        }
      }
    }
  }
  EXPECT_GT(beyond, 0);
}

// Still far less than what one wrong code or a left-out block of columns does, beside an outlier too.
TEST(CheckTolerance, LetsNoWrongWeightPass) {
  for (float outlier : {1.0f, 1e3f, 1e4f}) {
    const ToleranceCase one = tolerance_case(53248, outlier);
    for (int64_t row = 0; row < one.leaf.rows; ++row) {
      const float* w = one.leaf.values.data() + row * one.leaf.cols;
      double block = 0;
      for (int64_t k = 1024; k < 1024 + 64; ++k) block += static_cast<double>(w[k]) * one.x(0, k);
      const double tolerance = one.reference.tolerance(0, row);
      // A 4-bit code's step, of weights up to four standard deviations, by an ordinary activation.
      if (outlier < 1e4f) {
        EXPECT_GT(0.02 * 4 / 8, tolerance) << "outlier " << outlier;
      }
      if (std::fabs(block) > 0.02) {
        EXPECT_GT(std::fabs(block), tolerance) << "outlier " << outlier;
      }
    }
  }
}

TEST(CheckTolerance, IsFiniteWhateverTheKernelGave) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(check_tolerance(infinity, 1, 1, 100), 100 * kFloat32Epsilon / 2);
  EXPECT_EQ(check_tolerance(std::nan(""), 1, 1, 100), 100 * kFloat32Epsilon / 2);
  EXPECT_EQ(check_tolerance(0, 0, 0, 100), 0);
}

}  // namespace
}  // namespace lamina

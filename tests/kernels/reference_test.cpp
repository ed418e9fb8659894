#include "kernels/reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
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
    Matrix<double> magnitude = x;
    for (double& value : magnitude.data) value = std::fabs(value);
    for (int threads : {1, 2}) {
      const ReferenceProduct product = reference_product(weights.leaves[0], x, magnitude, threads);
      const Matrix<double> original = reference_product(random_matrix(7, cols, 1), x, threads);
      for (int64_t s = 0; s < 5; ++s) {
        for (int64_t i = 0; i < 7; ++i) {
          double sum = 0, bound = 0;
          for (int64_t k = 0; k < cols; ++k) {
            const double w = weights.leaves[0].values[static_cast<size_t>(i * cols + k)];
            sum += x(s, k) * w;
            bound += std::fabs(x(s, k)) * std::fabs(w);
          }
          EXPECT_NEAR(product.y(s, i), sum, 1e-13 * bound);
          EXPECT_NEAR(product.bound(s, i), bound, 1e-13 * bound);
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
  EXPECT_THROW(reference_product(leaf, Matrix<double>(1, 3), Matrix<double>(1, 2), 1), std::invalid_argument);
  leaf.values.pop_back();
  EXPECT_THROW(reference_product(leaf, Matrix<double>(1, 3), Matrix<double>(1, 3), 1), std::invalid_argument);
}

TEST(ReferenceProduct, TakesEmptyParts) {
  Leaf leaf;
  leaf.rows = 3;
  const ReferenceProduct product = reference_product(leaf, Matrix<double>(2, 0), Matrix<double>(2, 0), 1);
  EXPECT_EQ(product.y.rows, 2);
  for (double value : product.y.data) EXPECT_EQ(value, 0.0);
}

}  // namespace
}  // namespace lamina

// Whitening by the calibration Gram, against the same in float64 on one rank.
#include "distributed/svd/whiten.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using test::world;

// Tokens whose channels are correlated, one of them far larger than the others.
void calibration(int64_t first, Matrix<float>& out) {
  for (int64_t t = 0; t < out.rows; ++t)
    for (int64_t k = 0; k < out.cols; ++k)
      out(t, k) =
          (k == 3 ? 20.0f : 1.0f) * (test::number(21, first + t, k) + test::number(22, first + t, k % 5));
}

Matrix<double> damped_gram(int64_t tokens, int64_t channels, double damping) {
  Matrix<float> x(tokens, channels);
  calibration(0, x);
  Matrix<double> gram(channels, channels);
  double trace = 0;
  for (int64_t i = 0; i < channels; ++i)
    for (int64_t j = 0; j < channels; ++j) {
      for (int64_t t = 0; t < x.rows; ++t) gram(i, j) += static_cast<double>(x(t, i)) * x(t, j);
      gram(i, j) /= static_cast<double>(x.rows);
      if (i == j) trace += gram(i, j);
    }
  for (int64_t i = 0; i < channels; ++i) gram(i, i) += damping * trace / static_cast<double>(channels);
  return gram;
}

Matrix<float> own_rows(const Matrix<float>& whole, const Range& rows) {
  Matrix<float> own(rows.size(), whole.cols);
  std::copy(whole.row(rows.begin), whole.row(rows.end), own.data.begin());
  return own;
}

struct Case {
  int64_t rows, channels, tokens;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << c.rows << "x" << c.channels << ", " << c.tokens << " tokens";
}
class Whitening_ : public testing::TestWithParam<Case> {};

TEST_P(Whitening_, AppliesASquareRootOfTheGramAndTakesItBack) {
  const auto [n, k, count] = GetParam();
  constexpr double kDamping = 0.01;
  const auto self = make_self_communicator();
  Whitening spread(Whiten::cholesky, kDamping, k, count, calibration, world(), 1);
  Whitening alone(Whiten::cholesky, kDamping, k, count, calibration, *self, 2);

  const Matrix<float> w = test::random_matrix(n, k, 5);
  const Range rows = slab_rows(n, world());
  const Matrix<float> whole = alone.apply(w);
  EXPECT_EQ(spread.apply(own_rows(w, rows)).data, own_rows(whole, rows).data);
  // (W·L)·(W·L)ᵀ = W·G·Wᵀ
  const Matrix<double> gram = damped_gram(count, k, kDamping);
  for (const auto& [i, j] : {std::pair<int64_t, int64_t>{0, 0}, {n - 1, 0}, {n - 1, n - 1}, {n / 2, n / 3}}) {
    double found = 0, expected = 0, size = 0;
    for (int64_t a = 0; a < k; ++a) {
      found += static_cast<double>(whole(i, a)) * whole(j, a);
      for (int64_t b = 0; b < k; ++b) {
        expected += static_cast<double>(w(i, a)) * gram(a, b) * w(j, b);
        size += std::abs(static_cast<double>(w(i, a)) * gram(a, b) * w(j, b));
      }
    }
    EXPECT_NEAR(found, expected, 1e-6 * size) << i << ", " << j;
  }

  // Rows of W·L are columns that L⁻ᵀ takes back to W's.
  const std::vector<Range> cut = partition(k, world().size(), kRowBlock);
  const auto transposed = [&](const Range& range) {
    Matrix<float> v(range.size(), n);
    for (int64_t a = 0; a < v.rows; ++a)
      for (int64_t i = 0; i < n; ++i) v(a, i) = whole(i, range.begin + a);
    return v;
  };
  const Range own = cut[static_cast<size_t>(world().rank())];
  Matrix<float> v = transposed(own), v_alone = transposed({0, k});
  spread.undo(v);
  alone.undo(v_alone);
  EXPECT_EQ(v.data, own_rows(v_alone, own).data);
  for (int64_t a = 0; a < k; ++a)
    for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(v_alone(a, i), w(i, a), 2e-4) << a << ", " << i;
}

TEST_P(Whitening_, DiagonalScalesByTheRootMeanSquare) {
  const auto [n, k, count] = GetParam();
  Whitening whitening(Whiten::diagonal, 0, k, count, calibration, world(), 1);
  const Matrix<double> gram = damped_gram(count, k, 0);
  const Range own = partition(k, world().size(), kRowBlock)[static_cast<size_t>(world().rank())];
  const Matrix<float> ones = [&] {
    Matrix<float> matrix(1, k);
    std::fill(matrix.data.begin(), matrix.data.end(), 1.0f);
    return matrix;
  }();
  const Matrix<float> scaled = whitening.apply(ones);
  Matrix<float> v(own.size(), 1);
  for (int64_t a = 0; a < v.rows; ++a) v(a, 0) = scaled(0, own.begin + a);
  for (int64_t a = 0; a < k; ++a) EXPECT_NEAR(scaled(0, a), std::sqrt(gram(a, a)), 1e-6 * scaled(0, a));
  whitening.undo(v);
  for (const float one : v.data) EXPECT_NEAR(one, 1, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Whitening_,
                         testing::Values(Case{70, 300, 500}, Case{5, 128, 40}, Case{33, 100, 129},
                                         Case{1, 1, 7}, Case{260, 515, 128}));

TEST(Whitening, LosesLessOfTheOutputsThanThePlainFactorsOfTheSameRank) {
  constexpr int64_t kOut = 200, kIn = 320, kTokens = 600, kRank = 24;
  const Matrix<float> w = test::random_matrix(kOut, kIn, 8);
  const Range rows = slab_rows(kOut, world());
  const Matrix<float> slab = own_rows(w, rows);
  const auto self = make_self_communicator();
  Matrix<float> x(64, kIn);
  calibration(5000, x);  // tokens that were not used
  const auto output_error = [&](const Factors& factors) {
    double lost = 0, all = 0;
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t i = 0; i < kOut; ++i) {
        double y = 0, kept = 0;
        for (int64_t k = 0; k < kIn; ++k) y += static_cast<double>(w(i, k)) * x(t, k);
        for (int64_t r = 0; r < kRank; ++r) {
          double inner = 0;
          for (int64_t k = 0; k < kIn; ++k) inner += static_cast<double>(factors.v(r, k)) * x(t, k);
          kept += factors.u(i, r) * inner;
        }
        lost += (y - kept) * (y - kept);
        all += y * y;
      }
    return std::sqrt(lost / all);
  };
  std::vector<double> errors;
  for (const Whiten whiten : {Whiten::none, Whiten::diagonal, Whiten::cholesky}) {
    const FactorRequest request{
        .rule = {.rank = kRank}, .whiten = whiten, .calibration_tokens = kTokens, .damping = 0.001};
    const Factors alone =
        make_factorizer(*self, {.threads = 2}, calibration)->factorize({w, 0, {kOut, kIn}}, request, 1);
    const Factors spread =
        make_factorizer(world(), {}, calibration)->factorize({slab, rows.begin, {kOut, kIn}}, request, 1);
    EXPECT_EQ(spread.v.data, alone.v.data);
    EXPECT_EQ(spread.u.data, own_rows(alone.u, rows).data);
    EXPECT_EQ(spread.error, alone.error);
    // Of the matrix that was factorised, W times what weighs its columns.
    EXPECT_LE(alone.promise.error, alone.promise.bound);
    EXPECT_LT(alone.promise.bound, alone.promise.error + 1e-5);
    EXPECT_EQ(spread.promise.error, alone.promise.error);
    EXPECT_EQ(spread.promise.bound, alone.promise.bound);
    EXPECT_EQ(alone.promise.error == alone.error, whiten == Whiten::none);
    errors.push_back(output_error(alone));
    // As long in the one factor as in the other.
    double u = 0, v = 0;
    for (int64_t i = 0; i < kOut; ++i) u += alone.u(i, 0) * alone.u(i, 0);
    for (int64_t k = 0; k < kIn; ++k) v += alone.v(0, k) * alone.v(0, k);
    EXPECT_NEAR(u, v, 1e-4 * u);
  }
  EXPECT_LT(errors[1], 0.8 * errors[0]);  // one channel is 20 times the others
  EXPECT_LT(errors[2], 0.8 * errors[1]);  // and all share five factors
}

// Too few tokens are damped and all zeros weigh nothing: both work, and say so.
TEST(Whitening, TokensThatSayLittleAreWarnedOf) {
  const Matrix<float> w = test::random_matrix(30, 200, 3);
  const auto zeros = [](int64_t, Matrix<float>& out) { std::fill(out.data.begin(), out.data.end(), 0.0f); };
  for (const Whiten kind : {Whiten::cholesky, Whiten::diagonal}) {
    Whitening none(kind, 0.01, 200, 60, zeros, world(), 1);
    ASSERT_EQ(none.warnings().size(), 1u);
    EXPECT_NE(none.warnings()[0].find("all calibration tokens are 0"), std::string::npos);
    EXPECT_EQ(none.apply(w).data, w.data) << "the identity";
    const Whitening enough(kind, 0.01, 200, 400, calibration, world(), 1);
    EXPECT_TRUE(enough.warnings().empty());
  }
  const Whitening few(Whiten::cholesky, 0.01, 200, 60, calibration, world(), 1);
  ASSERT_EQ(few.warnings().size(), 1u);
  EXPECT_NE(few.warnings()[0].find("60 calibration tokens for 200 input channels"), std::string::npos);

  // And a scheme's weights tell.
  const Shape shape{60, 200};
  const OriginalWeights original =
      load_weights(test::MatrixSource(test::random_matrix(60, 200, 3)), world(), 1);
  const auto scheme = test::make_scheme(
      {"lowrank",
       {{"rank", int64_t{7}}, {"whiten", std::string("cholesky")}, {"calibration_tokens", int64_t{60}}}},
      shape, test::registry());
  const CompressedWeights weights = compress(*scheme, original, world(), 5, 1, nullptr, calibration);
  ASSERT_EQ(weights.warnings.size(), 1u);
  EXPECT_EQ(weights.warnings[0], few.warnings()[0]);
}

TEST(Whitening, BadCalibrationFailsOnEveryRank) {
  const auto failure = [](int64_t tokens, double damping, const Calibration& read = calibration) {
    return test::agreed_failure(world(),
                                [&] { Whitening(Whiten::cholesky, damping, 200, tokens, read, world(), 1); });
  };
  // Fewer tokens than channels and no damping.
  EXPECT_NE(failure(50, 0).find("singular"), std::string::npos);
  EXPECT_NE(failure(0, 0.01), "");
  EXPECT_NE(failure(50, -1), "");
  EXPECT_NE(failure(50, std::nan("")), "");
  EXPECT_NE(failure(50, 0.01, {}), "");
  const auto infinite = [](int64_t first, Matrix<float>& out) {
    std::fill(out.data.begin(), out.data.end(), 1.0f);
    if (first > 100) out(0, 7) = std::numeric_limits<float>::infinity();
  };
  EXPECT_NE(failure(400, 0.01, infinite), "");
}

// Weights and tokens are finite each, and their product is not, or next to nothing.
TEST(Whitening, AProductPastFloat32IsCalledThat) {
  const Matrix<float> w = test::random_matrix(70, 200, 3);
  const Range rows = slab_rows(70, world());
  const auto factorizer = make_factorizer(world(), {}, calibration);
  for (const auto& [power, says] :
       {std::pair{126, "overflow; scale either down"}, std::pair{-120, "; scale either up"}}) {
    Matrix<float> slab = own_rows(w, rows);
    for (float& each : slab.data) each = std::ldexp(each, power);
    for (const Whiten kind : {Whiten::diagonal, Whiten::cholesky}) {
      const FactorRequest request{
          .rule = {.rank = 4}, .whiten = kind, .calibration_tokens = 300, .damping = 0.01};
      const std::string problem = test::agreed_failure(world(), [&] {
        factorizer->factorize({slab, rows.begin, {70, 200}}, request, 1);
      });
      EXPECT_NE(problem.find("whitening: expected weights times"), std::string::npos) << problem;
      EXPECT_NE(problem.find(says), std::string::npos) << problem;
    }
  }
}

TEST(Whitening, ZeroWeightsHaveZeroFactors) {
  const Range rows = slab_rows(70, world());
  const Matrix<float> slab(rows.size(), 200);
  for (const Whiten kind : {Whiten::none, Whiten::diagonal, Whiten::cholesky}) {
    const FactorRequest request{
        .rule = {.rank = 4}, .whiten = kind, .calibration_tokens = 300, .damping = 0.01};
    const Factors factors =
        make_factorizer(world(), {}, calibration)->factorize({slab, rows.begin, {70, 200}}, request, 1);
    EXPECT_EQ(factors.error, 0);
    EXPECT_EQ(factors.promise.error, 0);
    EXPECT_FALSE(factors.promise.broken());
    EXPECT_TRUE(std::all_of(factors.v.data.begin(), factors.v.data.end(), [](float v) { return v == 0; }));
  }
}

}  // namespace
}  // namespace lamina

// The randomized factorisation against LAPACK's, and against itself on one rank.
#include "distributed/svd.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "distributed/compress.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using test::decaying;
using test::exact_singular_values;
using test::optimal_error;
using test::world;

double error_of(const Matrix<float>& a, const Matrix<float>& u, const Matrix<float>& v) {
  double rest = 0, all = 0;
  for (int64_t i = 0; i < a.rows; ++i) {
    std::vector<double> row(a.row(i), a.row(i) + a.cols);
    for (double w : row) all += w * w;
    for (int64_t r = 0; r < u.cols; ++r) {
      for (int64_t j = 0; j < a.cols; ++j)
        row[static_cast<size_t>(j)] -= static_cast<double>(u(i, r)) * v(r, j);
    }
    for (double w : row) rest += w * w;
  }
  return all > 0 ? std::sqrt(rest / all) : std::sqrt(rest);
}

Factors factorize(const Matrix<float>& a, const RankRule& rule, Communicator& comm, int threads = 1) {
  const Range rows = slab_rows(a.rows, comm);
  Matrix<float> slab(rows.size(), a.cols);
  std::copy(a.row(rows.begin), a.row(rows.end), slab.data.begin());
  return make_factorizer(comm, {.threads = threads})
      ->factorize({slab, rows.begin, {a.rows, a.cols}}, {.rule = rule, .method = "randomized"}, 7);
}

// On all ranks, and on each of them alone: bitwise the same.
Factors factorize_and_compare(const Matrix<float>& a, const RankRule& rule) {
  const auto self = make_self_communicator();
  Factors alone = factorize(a, rule, *self, 2);
  const Factors spread = factorize(a, rule, world());
  const Range rows = slab_rows(a.rows, world());
  EXPECT_EQ(spread.v.data, alone.v.data);
  EXPECT_EQ(spread.singular_values, alone.singular_values);
  EXPECT_EQ(spread.error, alone.error);
  EXPECT_EQ(spread.promise.bound, alone.promise.bound);
  EXPECT_LE(alone.error, alone.promise.bound);
  EXPECT_EQ(alone.promise.error, alone.error);
  EXPECT_EQ(spread.u.data, PagedVector<float>(alone.u.row(rows.begin), alone.u.row(rows.end)));
  return alone;
}

struct Case {
  int64_t n, k, rank;
  double decay;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << c.n << "x" << c.k << " r" << c.rank << " decay " << c.decay;
}

class SvdByRank : public testing::TestWithParam<Case> {};

TEST_P(SvdByRank, IsNearTheOptimumAndTheSameOnAnyRankCount) {
  const auto [n, k, rank, decay] = GetParam();
  const Matrix<float> a = decaying(n, k, decay, std::min<int64_t>({n, k, 400}));
  const Factors factors = factorize_and_compare(a, {.rank = rank});
  ASSERT_EQ(factors.u.cols, rank);
  ASSERT_EQ(factors.v.rows, rank);
  const std::vector<double> sigma = exact_singular_values(a);
  const double optimum = optimal_error(sigma, rank);
  EXPECT_LE(factors.error, 1.02 * optimum + 2e-6);
  EXPECT_NEAR(factors.error, error_of(a, factors.u, factors.v), 1e-6 + 1e-5 * factors.error);
  for (int64_t i = 0; i < std::min<int64_t>(rank, 4); ++i) {
    EXPECT_NEAR(factors.singular_values[static_cast<size_t>(i)], sigma[static_cast<size_t>(i)],
                0.02 * sigma[0]);
  }
  // √σ in each factor: U's columns are orthogonal, and σ_i is the square of their length.
  for (int64_t i = 0; i < std::min<int64_t>(rank, 6); ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t row = 0; row < n; ++row) dot += static_cast<double>(factors.u(row, i)) * factors.u(row, j);
      const double expected = i == j ? factors.singular_values[static_cast<size_t>(i)] : 0.0;
      EXPECT_NEAR(dot, expected, 1e-5 * sigma[0]) << i << ", " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SvdByRank,
                         testing::Values(Case{300, 420, 24, 0.5}, Case{420, 300, 24, 0.5},
                                         Case{515, 390, 40, 1.0}, Case{400, 400, 8, 0.2},
                                         Case{131, 192, 16, 0.5}, Case{131, 192, 131, 0.5}, Case{1, 50, 1, 0},
                                         Case{50, 1, 1, 0}, Case{300, 300, 290, 0.3},
                                         Case{280, 700, 32, 3.0}));

TEST(Svd, RatioGivesTheLargestRankWithin) {
  const Matrix<float> a = decaying(150, 300, 0.5, 100);
  const Factors factors = factorize_and_compare(a, {.ratio = 0.25});
  EXPECT_EQ(factors.u.cols, 25);  // 0.25 · 150 · 300 / 450
}

TEST(Svd, ErrorGivesTheLeastRankThatMeetsIt) {
  // Large enough that the sketch grows before it holds the error.
  const Matrix<float> a = decaying(400, 500, 0.8, 300);
  const std::vector<double> sigma = exact_singular_values(a);
  for (const double error : {0.5, 0.25, 0.1}) {
    const Factors factors = factorize_and_compare(a, {.error = error});
    EXPECT_LE(factors.promise.bound, error);
    int64_t least = 1;
    while (optimal_error(sigma, least) > error) ++least;
    EXPECT_GE(factors.u.cols, least);
    EXPECT_LE(factors.u.cols, least + 2 + least / 16) << "for an error of " << error;
  }
}

TEST(Svd, ErrorOutOfReachGivesTheWholeRank) {
  const Factors factors = factorize_and_compare(test::random_matrix(40, 60, 3), {.error = 1e-12});
  EXPECT_EQ(factors.u.cols, 40);
  EXPECT_LT(factors.error, 1e-5);
}

TEST(Svd, ZerosFactoriseIntoZeros) {
  for (const RankRule& rule : {RankRule{.rank = 5}, RankRule{.error = 0.1}}) {
    const Factors factors = factorize_and_compare(Matrix<float>(300, 300), rule);
    EXPECT_EQ(factors.error, 0);
    for (const float value : factors.u.data) EXPECT_EQ(value, 0);
    for (const float value : factors.v.data) EXPECT_EQ(value, 0);
  }
}

TEST(Svd, RankDeficientMatricesAreExact) {
  const Matrix<float> a = decaying(400, 420, 0.5, 5);
  const Factors factors = factorize_and_compare(a, {.rank = 30});
  EXPECT_EQ(factors.u.cols, 30);
  EXPECT_LT(factors.error, 2e-6);
  for (const float value : factors.u.data) ASSERT_TRUE(std::isfinite(value));
  for (const float value : factors.v.data) ASSERT_TRUE(std::isfinite(value));
}

TEST(Svd, VerySmallAndLargeWeightsKeepTheirError) {
  const Matrix<float> a = decaying(300, 320, 0.5, 100);
  const double error = factorize_and_compare(a, {.rank = 20}).error;
  for (const float scale : {1e-18f, 1e12f}) {
    Matrix<float> scaled = a;
    for (float& w : scaled.data) w *= scale;
    EXPECT_NEAR(factorize_and_compare(scaled, {.rank = 20}).error, error, 1e-4);
  }
}

TEST(Svd, NotFiniteAndBadRulesFailOnEveryRank) {
  Matrix<float> a = test::random_matrix(300, 300, 5);
  EXPECT_THROW(factorize(a, {.rank = 301}, world()), AgreedError);
  EXPECT_THROW(factorize(a, {.rank = 3, .error = 0.5}, world()), AgreedError);
  EXPECT_THROW(factorize(a, {}, world()), AgreedError);
  EXPECT_THROW(factorize(a, {.error = std::nan("")}, world()), AgreedError);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    a(299, 299) = bad;
    EXPECT_THROW(factorize(a, {.rank = 3}, world()), AgreedError);
  }
}

}  // namespace
}  // namespace lamina

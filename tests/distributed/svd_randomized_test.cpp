// The randomized factorisation against LAPACK's, and against itself on one rank.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd.hpp"
#include "tests/distributed/svd_support.hpp"

extern "C" void dgesdd_(const char*, const int*, const int*, double*, const int*, double*, double*,
                        const int*, double*, const int*, double*, const int*, int*, int*);

namespace lamina {
namespace {

using test::world;

// Singular values by LAPACK, largest first.
std::vector<double> exact_singular_values(const Matrix<float>& a) {
  std::vector<double> copy(a.data.begin(), a.data.end());
  const int m = static_cast<int>(a.cols), n = static_cast<int>(a.rows), least = std::min(m, n);
  std::vector<double> values(static_cast<size_t>(least));
  const int size = 64 * (m + n) + 16 * least * least;
  std::vector<double> work(static_cast<size_t>(size));
  std::vector<int> integers(static_cast<size_t>(8 * least));
  int info = 0;
  const int one = 1;
  double none = 0;
  dgesdd_("N", &m, &n, copy.data(), &m, values.data(), &none, &one, &none, &one, work.data(), &size,
          integers.data(), &info);
  EXPECT_EQ(info, 0);
  return values;
}

// The least relative error of any factors of rank r.
double optimal_error(const std::vector<double>& sigma, int64_t r) {
  double rest = 0, all = 0;
  for (size_t i = 0; i < sigma.size(); ++i) {
    all += sigma[i] * sigma[i];
    if (static_cast<int64_t>(i) >= r) rest += sigma[i] * sigma[i];
  }
  return std::sqrt(rest / all);
}

// Σ_r (r+1)^−decay · noise ⊗ noise: a spectrum that falls about as that power.
Matrix<float> decaying(int64_t n, int64_t k, double decay, int64_t terms) {
  const Matrix<float> left = test::random_matrix(n, terms, 11), right = test::random_matrix(terms, k, 12);
  Matrix<float> a(n, k);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < terms; ++r) {
      const float scaled = left(i, r) * static_cast<float>(std::pow(r + 1.0, -decay));
      for (int64_t j = 0; j < k; ++j) a(i, j) += scaled * right(r, j);
    }
  }
  return a;
}

// These singular values, turned by a reflection on either side.
Matrix<float> with_spectrum(int64_t n, int64_t k, const std::vector<double>& sigma) {
  std::vector<double> left(static_cast<size_t>(n)), right(static_cast<size_t>(k));
  double left_squared = 0, right_squared = 0;
  for (int64_t i = 0; i < n; ++i)
    left_squared += std::pow(left[static_cast<size_t>(i)] = test::number(31, i, 0), 2);
  for (int64_t i = 0; i < k; ++i)
    right_squared += std::pow(right[static_cast<size_t>(i)] = test::number(32, i, 0), 2);
  const auto diagonal = [&](int64_t i) {
    return i < static_cast<int64_t>(sigma.size()) ? sigma[static_cast<size_t>(i)] : 0.0;
  };
  double middle = 0;  // leftᵀ·Σ·right
  for (int64_t i = 0; i < std::min(n, k); ++i)
    middle += left[static_cast<size_t>(i)] * diagonal(i) * right[static_cast<size_t>(i)];
  Matrix<float> a(n, k);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const double x = left[static_cast<size_t>(i)], y = right[static_cast<size_t>(j)];
      a(i, j) = static_cast<float>(
          (i == j ? diagonal(i) : 0) -
          2 * x / left_squared * left[static_cast<size_t>(std::min(j, n - 1))] * (j < n ? diagonal(j) : 0) -
          2 * y / right_squared * diagonal(i) * (i < k ? right[static_cast<size_t>(i)] : 0) +
          4 * x * y / left_squared / right_squared * middle);
    }
  }
  return a;
}

SpreadMatrix spread(const Matrix<float>& a, Layout layout, Communicator& comm) {
  SpreadMatrix part{{a.rows, a.cols}, {.layout = layout}, {}};
  const bool by_rows = layout == Layout::rows;
  const Range own =
      partition(by_rows ? a.rows : a.cols, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
  part.local = by_rows ? Matrix<float>(own.size(), a.cols) : Matrix<float>(a.rows, own.size());
  for (int64_t i = 0; i < part.local.rows; ++i) {
    const float* from = by_rows ? a.row(own.begin + i) : a.row(i) + own.begin;
    std::copy_n(from, part.local.cols, part.local.row(i));
  }
  return part;
}

SvdOptions randomized(int threads = 1) {
  SvdOptions options;
  options.method = "randomized";
  options.threads = threads;
  options.seed = 7;
  return options;
}

Matrix<float> gathered(const Matrix<float>& own, int64_t rows, Communicator& comm) {
  Matrix<float> all(rows, own.cols);
  std::vector<int64_t> bytes;
  for (const Range& share : partition(rows, comm.size(), kRowBlock))
    bytes.push_back(4 * share.size() * own.cols);
  comm.all_gather(own.data.data(), all.data.data(), bytes);
  return all;
}

// The factors whole, with what they promise held against what they do.
SvdResult whole_factors(const Matrix<float>& a, const RankRule& rule, const SvdOptions& options,
                        Communicator& comm, Layout layout) {
  const SpreadMatrix part = spread(a, layout, comm);
  SvdResult result = factorize(part, rule, options, comm);
  EXPECT_LE(residual(part, result, comm, options.threads), result.error_bound);
  result.u = gathered(result.u, a.rows, comm);
  result.v = gathered(result.v, a.cols, comm);
  return result;
}

void expect_orthonormal(const Matrix<float>& q, const std::vector<double>& sigma) {
  for (int64_t i = 0; i < q.cols; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t row = 0; row < q.rows; ++row) dot += static_cast<double>(q(row, i)) * q(row, j);
      const double expected = i == j && sigma[static_cast<size_t>(i)] > 0 ? 1 : 0;
      ASSERT_NEAR(dot, expected, 1e-6) << i << ", " << j;
    }
  }
}

// On all ranks in either layout, and on each of them alone on two threads: bitwise the same.
SvdResult factorize_and_compare(const Matrix<float>& a, const RankRule& rule,
                                const SvdOptions& options = randomized()) {
  const auto self = make_self_communicator();
  SvdOptions two = options;
  two.threads = 2;
  const SvdResult alone = whole_factors(a, rule, two, *self, Layout::rows);
  for (const Layout layout : {Layout::rows, Layout::columns}) {
    const SvdResult together = whole_factors(a, rule, options, world(), layout);
    EXPECT_EQ(together.u.data, alone.u.data);
    EXPECT_EQ(together.v.data, alone.v.data);
    EXPECT_EQ(together.singular_values, alone.singular_values);
    EXPECT_EQ(together.error_bound, alone.error_bound);
  }
  expect_orthonormal(alone.u, alone.singular_values);
  expect_orthonormal(alone.v, alone.singular_values);
  return alone;
}

double error_of(const Matrix<float>& a, const SvdResult& factors) {
  double rest = 0, all = 0;
  for (int64_t i = 0; i < a.rows; ++i) {
    std::vector<double> row(a.row(i), a.row(i) + a.cols);
    for (double w : row) all += w * w;
    for (int64_t r = 0; r < factors.u.cols; ++r) {
      const double scaled = factors.u(i, r) * factors.singular_values[static_cast<size_t>(r)];
      for (int64_t j = 0; j < a.cols; ++j) row[static_cast<size_t>(j)] -= scaled * factors.v(j, r);
    }
    for (double w : row) rest += w * w;
  }
  return all > 0 ? std::sqrt(rest / all) : std::sqrt(rest);
}

struct Case {
  int64_t n, k, rank;
  double decay;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << c.n << "x" << c.k << " r" << c.rank << " decay " << c.decay;
}

class RandomizedByRank : public testing::TestWithParam<Case> {};

TEST_P(RandomizedByRank, IsNearTheOptimumAndTheSameOnAnyRankCount) {
  const auto [n, k, rank, decay] = GetParam();
  const Matrix<float> a = decaying(n, k, decay, std::min<int64_t>({n, k, 400}));
  const SvdResult factors = factorize_and_compare(a, {.rank = rank});
  ASSERT_EQ(factors.u.cols, rank);
  ASSERT_EQ(factors.v.cols, rank);
  const std::vector<double> sigma = exact_singular_values(a);
  const double optimum = optimal_error(sigma, rank), error = error_of(a, factors);
  EXPECT_LE(error, 1.02 * optimum + 2e-7);
  // The bound is sharp.
  EXPECT_LE(factors.error_bound, error + 1e-6);
  for (int64_t i = 0; i < rank; ++i) {
    const double found = factors.singular_values[static_cast<size_t>(i)],
                 exact = sigma[static_cast<size_t>(i)];
    ASSERT_LE(found, exact * (1 + 1e-6) + 1e-7 * sigma[0]) << i;
    if (i < rank / 4) {
      ASSERT_GE(found, 0.98 * exact) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RandomizedByRank,
                         testing::Values(Case{300, 420, 24, 0.5}, Case{420, 300, 24, 0.5},
                                         Case{515, 390, 40, 1.0}, Case{400, 400, 8, 0.2},
                                         Case{270, 1030, 60, 0.5}, Case{131, 192, 16, 0.5},
                                         Case{300, 300, 290, 0.3}, Case{280, 700, 32, 3.0}, Case{1, 50, 1, 0},
                                         Case{50, 1, 1, 0}, Case{1, 1, 1, 0}));

TEST(Randomized, FindsKnownSpectra) {
  std::vector<double> steps(40, 5.0);
  steps.resize(120, 1.0);
  std::vector<double> steep, clustered;
  for (int i = 0; i < 300; ++i) steep.push_back(std::pow(0.8, i));
  for (int i = 0; i < 300; ++i) clustered.push_back(i < 50 ? 1 + 1e-5 * (50 - i) : 0.01);
  for (const std::vector<double>& sigma : {steps, steep, clustered}) {
    const Matrix<float> a = with_spectrum(310, 530, sigma);
    const SvdResult factors = factorize_and_compare(a, {.rank = 50});
    const double scale = sigma[0];
    for (size_t i = 0; i < 50; ++i)
      ASSERT_NEAR(factors.singular_values[i], sigma[i], 2e-3 * sigma[i] + 2e-7 * scale) << i;
    EXPECT_LE(factors.error_bound, 1.02 * optimal_error(sigma, 50) + 1e-6);
  }
}

TEST(Randomized, PowerIterationsAndOversamplingBringItNearer) {
  const Matrix<float> a = decaying(400, 450, 0.3, 400);
  SvdOptions options = randomized();
  double before = 1;
  for (const int iterations : {0, 1, 2, 4}) {
    options.power_iterations = iterations;
    const double error = factorize_and_compare(a, {.rank = 40}, options).error_bound;
    EXPECT_LT(error, before) << iterations;
    before = error;
  }
  options.power_iterations = 0;
  options.oversampling = 0;
  const double bare = factorize_and_compare(a, {.rank = 40}, options).error_bound;
  options.oversampling = 100;
  EXPECT_LT(factorize_and_compare(a, {.rank = 40}, options).error_bound, bare);
}

TEST(Randomized, TheSeedChoosesTheTestMatrix) {
  const Matrix<float> a = decaying(300, 330, 0.3, 300);
  SvdOptions options = randomized();
  const SvdResult first = factorize_and_compare(a, {.rank = 10}, options);
  EXPECT_EQ(factorize_and_compare(a, {.rank = 10}, options).u.data, first.u.data);
  options.seed = 8;
  EXPECT_NE(factorize_and_compare(a, {.rank = 10}, options).u.data, first.u.data);
}

TEST(Randomized, ErrorGivesAboutTheLeastRankThatMeetsIt) {
  // Large enough that the sketch grows before it holds the error.
  const Matrix<float> a = decaying(600, 700, 0.8, 400);
  const std::vector<double> sigma = exact_singular_values(a);
  for (const double error : {0.5, 0.25, 0.15, 0.05}) {
    const SvdResult factors = factorize_and_compare(a, {.error = error});
    EXPECT_LE(error_of(a, factors), error);
    EXPECT_LE(factors.error_bound, error);
    int64_t least = 1;
    while (optimal_error(sigma, least) > error) ++least;
    EXPECT_GE(factors.u.cols, least);
    EXPECT_LE(factors.u.cols, least + 2 + least / 16) << "for an error of " << error;
  }
}

TEST(Randomized, EnergyIsTheErrorsComplement) {
  const Matrix<float> a = decaying(500, 420, 0.8, 400);
  const SvdResult by_energy = factorize_and_compare(a, {.energy = 0.9375});
  const SvdResult by_error = factorize_and_compare(a, {.error = 0.25});
  EXPECT_EQ(by_energy.u.data, by_error.u.data);
}

TEST(Randomized, ErrorOutOfReachGivesTheWholeRank) {
  const SvdResult factors = factorize_and_compare(test::random_matrix(280, 300, 3), {.error = 1e-12});
  EXPECT_EQ(factors.u.cols, 280);
  EXPECT_LT(factors.error_bound, 1e-5);
}

TEST(Randomized, ZerosFactoriseIntoZeros) {
  for (const RankRule& rule : {RankRule{.rank = 5}, RankRule{.error = 0.1}}) {
    const SvdResult factors = factorize_and_compare(Matrix<float>(300, 300), rule);
    EXPECT_EQ(factors.error_bound, 0);
    for (const float value : factors.u.data) ASSERT_EQ(value, 0);
    for (const float value : factors.v.data) ASSERT_EQ(value, 0);
  }
}

TEST(Randomized, RankDeficientMatricesAreExactAndPaddedWithZeros) {
  const Matrix<float> few = decaying(400, 420, 0.5, 5);
  Matrix<float> constant(300, 520), corner(530, 300), whole(300, 300);
  std::fill(constant.data.begin(), constant.data.end(), -3.0f);
  corner(529, 299) = 2;  // one element
  for (int64_t i = 0; i < 40; ++i)
    whole(i * 7, i * 5) = static_cast<float>(1 + i % 3);  // exact in any arithmetic
  struct Deficient {
    const Matrix<float>& a;
    int64_t rank;
  };
  for (const auto& [a, rank] : {Deficient{few, 5}, {constant, 1}, {corner, 1}, {whole, 40}}) {
    const SvdResult factors = factorize_and_compare(a, {.rank = 60});
    ASSERT_EQ(factors.u.cols, 60);
    EXPECT_LT(error_of(a, factors), 2e-7);
    for (int64_t j = 0; j < 60; ++j) {
      const double sigma = factors.singular_values[static_cast<size_t>(j)];
      // Rounding may leave `few` a little more than its rank.
      ASSERT_EQ(sigma > 1e-6 * factors.singular_values[0], j < rank) << j;
      for (int64_t i = 0; i < a.rows && sigma == 0; ++i) ASSERT_EQ(factors.u(i, j), 0);
      for (int64_t i = 0; i < a.cols && sigma == 0; ++i) ASSERT_EQ(factors.v(i, j), 0);
    }
    const SvdResult adaptive = factorize_and_compare(a, {.error = 1e-4});
    EXPECT_EQ(adaptive.u.cols, rank);
  }
}

TEST(Randomized, AnyMagnitudeKeepsItsError) {
  const Matrix<float> a = decaying(300, 320, 0.5, 100);
  const SvdResult plain = factorize_and_compare(a, {.rank = 20});
  for (const int exponent : {-120, -60, 60, 118}) {
    Matrix<float> scaled = a;
    for (float& w : scaled.data) w = std::ldexp(w, exponent);
    const SvdResult factors = factorize_and_compare(scaled, {.rank = 20});
    EXPECT_NEAR(factors.error_bound, plain.error_bound, 1e-6) << exponent;
    EXPECT_NEAR(factors.singular_values[0] * std::ldexp(1.0, -exponent), plain.singular_values[0],
                1e-6 * plain.singular_values[0]);
  }
}

TEST(Randomized, ElementsFarApartInSizeAreKept) {
  // A block of its own magnitude, far below the rest: no more than its share of the error.
  Matrix<float> a = decaying(320, 360, 0.5, 100);
  for (int64_t i = 0; i < 160; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) a(i, j) *= 1e-12f;
  }
  const SvdResult factors = factorize_and_compare(a, {.rank = 120});
  EXPECT_LT(error_of(a, factors), 1e-6);
}

TEST(Randomized, BadInputIsTheSameErrorOnEveryRank) {
  Matrix<float> a = test::random_matrix(300, 300, 5);
  const auto fails = [&](const RankRule& rule, const SvdOptions& options = randomized()) {
    const SpreadMatrix part = spread(a, Layout::rows, world());
    EXPECT_NE(test::agreed_failure(world(), [&] { factorize(part, rule, options, world()); }), "");
  };
  fails({.rank = 301});
  fails({.rank = -1});
  fails({.rank = 3, .error = 0.5});
  fails({});
  fails({.error = std::nan("")});
  fails({.energy = 1.5});
  SvdOptions options = randomized();
  options.oversampling = -1;
  fails({.rank = 3}, options);
  options = randomized();
  options.power_iterations = -1;
  fails({.rank = 3}, options);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    a(299, 299) = bad;
    fails({.rank = 3});
    fails({.error = 0.5});
  }
}

}  // namespace
}  // namespace lamina

// The Gram method: exact up to float32's rounding, whatever the layout, the ranks and the spectrum.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>

#include "distributed/scalapack.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/symmetric.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

constexpr double kFloatPrecision = 1e-6;  // of unit columns rounded to float32

// By rows and by columns, on all ranks and on each alone: bitwise the same. The factors by rows.
SvdResult factorize_everywhere(const Matrix<float>& a, const RankRule& rule, const SvdOptions& options = {}) {
  const Shape shape{a.rows, a.cols};
  const auto self = make_self_communicator();
  SvdOptions two_threads = options;
  two_threads.threads = 2;
  two_threads.same_for_any_ranks = true;
  const SvdResult alone = factorize(spread(a, Layout::rows, *self), rule, two_threads, *self);
  SvdResult result;
  for (const Layout layout : {Layout::columns, Layout::rows}) {
    // Square ones count the side that is cut as the longer: not the same sums.
    if (a.rows == a.cols && layout == Layout::columns) continue;
    result = factorize(spread(a, layout, world()), rule, options, world());
    EXPECT_EQ(result.singular_values, alone.singular_values);
    EXPECT_EQ(result.error_bound, alone.error_bound);
    EXPECT_EQ(result.norm, alone.norm);
    const WholeFactors factors = whole(result, shape, world());
    EXPECT_EQ(factors.u.data, alone.u.data);
    EXPECT_EQ(factors.v.data, alone.v.data);
  }
  return result;
}

// What every factorisation of `a` must be; `gram` ones within 1.0001 of the optimum.
void expect_good(const Matrix<float>& a, const SvdResult& result, double spectrum_tolerance = 1e-7) {
  const auto r = static_cast<int64_t>(result.singular_values.size());
  EXPECT_TRUE(std::is_sorted(result.singular_values.rbegin(), result.singular_values.rend()));
  const std::vector<double> sigma = exact_singular_values(a);
  const double optimum = optimal_error(sigma, r);
  // Filters end when Σσ² may still gain 10⁻⁴ of what is left out. No value is above the exact one (Cauchy's
  // interlacing), so each σ² lacks at most that, and σ that over σ itself.
  const bool filtered = result.solved_by == "filters";
  const double missing = filtered ? 1e-4 * std::pow(optimum * result.norm, 2) : 0;
  for (int64_t i = 0; i < r; ++i) {
    const auto at = static_cast<size_t>(i);
    const double tolerance = spectrum_tolerance * sigma[0];
    EXPECT_LE(result.singular_values[at], sigma[at] + tolerance) << i;
    EXPECT_GE(result.singular_values[at], sigma[at] - tolerance - (filtered ? missing / sigma[at] : 0)) << i;
  }
  const WholeFactors factors = whole(result, {a.rows, a.cols}, world());
  EXPECT_LT(orthogonality(factors.u, result.singular_values), kFloatPrecision);
  EXPECT_LT(orthogonality(factors.v, result.singular_values), kFloatPrecision);
  const double error = residual(spread(a, Layout::rows, world()), result, world(), 1);
  EXPECT_NEAR(error, error_of(a, factors, result.singular_values), 1e-12 + 1e-9 * error);
  EXPECT_NEAR(error, residual(spread(a, Layout::columns, world()), result, world(), 1), 1e-12 + 1e-9 * error);
  EXPECT_LE(error, 1.0001 * optimum + 1.2e-7);
  if (filtered) {
    EXPECT_TRUE(std::isnan(result.optimal_error));  // they know no values beyond the rank
  } else {
    EXPECT_NEAR(result.optimal_error, optimum, 2e-6);
  }
  EXPECT_LE(error, result.error_bound);
  EXPECT_LE(result.error_bound, 1.05 * error + 4e-6);
}

struct Case {
  int64_t n, k, rank;
  double decay;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << c.n << "x" << c.k << " r" << c.rank << " decay " << c.decay;
}

class SvdGram : public testing::TestWithParam<Case> {};

TEST_P(SvdGram, IsTheOptimumOfAnyLayoutOnAnyRankCount) {
  const auto [n, k, rank, decay] = GetParam();
  const Matrix<float> a = decaying(n, k, decay, std::min<int64_t>({n, k, 400}));
  const SvdResult result = factorize_everywhere(a, {.rank = rank});
  ASSERT_EQ(static_cast<int64_t>(result.singular_values.size()), rank);
  EXPECT_EQ(result.solved_by, std::min(n, k) >= 8 * rank && std::min(n, k) >= 512 ? "filters" : "lapack");
  expect_good(a, result);
}

INSTANTIATE_TEST_SUITE_P(Shapes, SvdGram,
                         testing::Values(Case{300, 420, 24, 0.5}, Case{420, 300, 24, 0.5},
                                         Case{515, 390, 40, 1.0}, Case{390, 900, 300, 0.5},
                                         Case{256, 256, 8, 0.2}, Case{131, 192, 131, 0.5}, Case{1, 50, 1, 0},
                                         Case{50, 1, 1, 0}, Case{1, 1, 1, 0}, Case{3, 1300, 2, 0.5},
                                         Case{1300, 3, 3, 0.5}, Case{280, 700, 32, 3.0},
                                         // Few of many: by filters.
                                         Case{520, 700, 40, 0.5}, Case{700, 520, 64, 1.0}));

TEST(SvdGram, FindsAKnownSpectrum) {
  const std::vector<double> sigma = {9, 7, 7, 4, 2, 1, 0.5, 0.25};
  const SvdResult result = factorize_everywhere(with_spectrum(150, 200, sigma), {.rank = 8});
  for (size_t i = 0; i < sigma.size(); ++i) EXPECT_NEAR(result.singular_values[i], sigma[i], 1e-5);
}

TEST(SvdGram, PolishesWhatTheSquaresLose) {
  // Nine digits of singular values, whose squares are beyond float64; the last are rounding of float32.
  std::vector<double> sigma;
  for (int i = 0; i < 36; ++i) sigma.push_back(std::pow(10.0, -0.25 * i));
  const Matrix<float> wide = with_spectrum(140, 270, sigma), tall = with_spectrum(270, 140, sigma);
  for (const Matrix<float>* a : {&wide, &tall}) {
    const SvdResult result = factorize_everywhere(*a, {.rank = 36});
    expect_good(*a, result, 2e-8);
    EXPECT_GT(result.singular_values.back(), 0);
  }
}

// Small whole numbers: products of rank 3 are exact.
Matrix<float> of_rank_3(int64_t n, int64_t k) {
  Matrix<float> low(n, k);
  for (int64_t i = 0; i < low.rows; ++i) {
    for (int64_t j = 0; j < low.cols; ++j)
      low(i, j) = static_cast<float>(i % 5 - 2 + (i % 7 - 3) * (j % 3) + (i % 2) * (j % 11));
  }
  return low;
}

Matrix<float> constant_of(int64_t n, int64_t k) {
  Matrix<float> constant(n, k);
  std::fill(constant.data.begin(), constant.data.end(), 0.3f);
  return constant;
}

TEST(SvdGram, DirectionsThatAreNotThereAreZeros) {
  const Matrix<float> low = of_rank_3(200, 333), constant = constant_of(140, 150);
  // Few of many, which filters try first.
  const Matrix<float> large_low = of_rank_3(514, 530), large_constant = constant_of(530, 514);
  for (const auto& [a, rank] : {std::pair{&low, size_t{3}}, std::pair{&constant, size_t{1}},
                                std::pair{&large_low, size_t{3}}, std::pair{&large_constant, size_t{1}}}) {
    for (const Layout layout : {Layout::rows, Layout::columns}) {
      const SvdResult result = factorize(spread(*a, layout, world()), {.rank = 9}, {}, world());
      ASSERT_EQ(result.singular_values.size(), 9u);
      for (size_t i = 0; i < 9; ++i) EXPECT_EQ(result.singular_values[i] > 0, i < rank) << i;
      expect_good(*a, result);
    }
  }
}

TEST(SvdGram, ZerosGiveZeroFactorsOfNoError) {
  for (const RankRule& rule : {RankRule{.rank = 5}, RankRule{.error = 0.1}, RankRule{.energy = 0.5}}) {
    const SvdResult result = factorize_everywhere(Matrix<float>(200, 300), rule);
    EXPECT_EQ(result.error_bound, 0);
    EXPECT_EQ(residual(spread(Matrix<float>(200, 300), Layout::rows, world()), result, world(), 1), 0);
    for (const float value : result.u.data) EXPECT_EQ(value, 0);
    for (const float value : result.v.data) EXPECT_EQ(value, 0);
  }
}

TEST(SvdGram, ExtremeMagnitudesKeepTheirError) {
  const Matrix<float> a = decaying(200, 300, 0.5, 100);
  const double bound = factorize_everywhere(a, {.rank = 20}).error_bound;
  for (const int power : {-110, 100}) {
    Matrix<float> scaled = a;
    for (float& w : scaled.data) w = std::ldexp(w, power);
    EXPECT_NEAR(factorize_everywhere(scaled, {.rank = 20}).error_bound, bound, 1e-6);
  }
  // Columns of very different size, as outlier channels are.
  Matrix<float> graded = a;
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) graded(i, j) = std::ldexp(a(i, j), static_cast<int>(j % 40) - 20);
  }
  expect_good(graded, factorize_everywhere(graded, {.rank = 60}));
}

TEST(SvdGram, RulesGiveTheLeastRank) {
  const Matrix<float> a = decaying(300, 400, 0.8, 300);
  const std::vector<double> sigma = exact_singular_values(a);
  for (const double error : {0.5, 0.1, 1e-3}) {
    int64_t least = 1;
    while (optimal_error(sigma, least) > error) ++least;
    const SvdResult by_error = factorize_everywhere(a, {.error = error});
    EXPECT_EQ(static_cast<int64_t>(by_error.singular_values.size()), least) << error;
    EXPECT_LE(by_error.error_bound, error);
    const SvdResult by_energy = factorize_everywhere(a, {.energy = 1 - error * error});
    EXPECT_EQ(by_energy.singular_values.size(), by_error.singular_values.size()) << error;
  }
  EXPECT_EQ(factorize_everywhere(a, {.ratio = 0.25}).u.cols, 42);    // 0.25 · 300 · 400 / 700
  EXPECT_EQ(factorize_everywhere(a, {.error = 1e-12}).u.cols, 300);  // out of reach
}

TEST(SvdGram, AChangedFactorBreaksTheBound) {
  const Matrix<float> a = decaying(200, 300, 0.5, 150);
  const SpreadMatrix part = spread(a, Layout::rows, world());
  for (const bool left : {true, false}) {
    SvdResult result = factorize(part, {.rank = 20}, {}, world());
    Matrix<float>& factor = left ? result.u : result.v;
    if (world().rank() == 0) factor(0, 1) += 0.01f;
    EXPECT_GT(residual(part, result, world(), 1), result.error_bound);
  }
}

TEST(SvdGram, EigensolversOverRanksAreAsGood) {
  const Matrix<float> wide = decaying(300, 420, 0.5, 200), tall = decaying(420, 300, 0.5, 200);
  for (const auto& [name, absent] :
       {std::pair{"scalapack", svd::scalapack_absent()}, std::pair{"elpa", svd::elpa_absent()}}) {
    if (!absent.empty()) continue;
    for (const Matrix<float>* a : {&wide, &tall}) {
      const SvdResult result =
          factorize(spread(*a, Layout::rows, world()), {.rank = 24}, {.eigensolver = name}, world());
      EXPECT_EQ(result.solved_by, name);
      expect_good(*a, result);
    }
  }
}

TEST(SvdGram, TakesADistributedEigensolverOfLargeMatrices) {
  const std::string two = svd::scalapack_absent().empty() ? "scalapack" : "lapack";
  const std::string four = svd::elpa_absent().empty() ? "elpa" : two;
  EXPECT_EQ(svd::gram_eigensolver({}, 2048, 1), "lapack");
  EXPECT_EQ(svd::gram_eigensolver({}, 2047, 4), "lapack");
  EXPECT_EQ(svd::gram_eigensolver({}, 2048, 2), two);
  EXPECT_EQ(svd::gram_eigensolver({}, 2048, 3), two);
  EXPECT_EQ(svd::gram_eigensolver({}, 8192, 4), four);
  EXPECT_EQ(svd::gram_eigensolver({.same_for_any_ranks = true}, 8192, 4), "lapack");
  EXPECT_EQ(svd::gram_eigensolver({.eigensolver = "lapack"}, 8192, 4), "lapack");
  EXPECT_EQ(svd::gram_eigensolver({.eigensolver = "scalapack"}, 64, 2), "scalapack");
}

TEST(SvdGram, PhasesSumToTheWhole) {
  const Matrix<float> a = decaying(520, 700, 0.5, 50);
  const SpreadMatrix rows = spread(a, Layout::rows, world()), columns = spread(a, Layout::columns, world());
  const SpreadMatrix little = spread(decaying(150, 200, 0.5, 50), Layout::rows, world());  // it is slow
  struct Way {
    const SpreadMatrix* a;
    int64_t rank;
    const char* method;
  };
  // By filters with A where it lies and copied, by LAPACK, by a sketch, and by whom W is dealt out for.
  for (const auto& [part, rank, method] :
       {Way{&columns, 30, "gram"}, Way{&rows, 30, "gram"}, Way{&rows, 100, "gram"},
        Way{&rows, 30, "randomized"}, Way{&little, 30, "scalapack"}}) {
    if (!find_svd_method(method)->absent.empty()) continue;
    double share = 0;
    for (int i = 0; i < 5 && share < 0.5; ++i) {  // what another program takes may fall between phases
      world().barrier();
      const auto begin = std::chrono::steady_clock::now();
      const SvdPhases phases = factorize(*part, {.rank = rank}, {.method = method}, world()).phases;
      const std::chrono::duration<double> whole = std::chrono::steady_clock::now() - begin;
      const double sum =
          phases.multiply_s + phases.communicate_s + phases.eigensolve_s + phases.orthogonalize_s;
      EXPECT_LE(sum, whole.count()) << method << " " << rank;  // phases do not overlap
      share = world().max(sum / whole.count());
    }
    EXPECT_GE(share, 0.5) << method << " " << rank;
  }
}

TEST(SymmetricTiles, CopyBothHalves) {
  const int64_t size = 2 * svd::SymmetricTiles::kSide + 37;
  svd::SymmetricTiles tiles(size);
  const auto value = [&](int64_t i, int64_t j) {
    return static_cast<double>(std::min(i, j) * 1000 + std::max(i, j));
  };
  for (int64_t row = 0; row < tiles.tiles(); ++row) {
    for (int64_t col = row; col < tiles.tiles(); ++col) {
      for (int64_t i = 0; i < tiles.side(row); ++i) {
        for (int64_t j = 0; j < tiles.side(col); ++j) {
          const int64_t r = row * tiles.kSide + i, c = col * tiles.kSide + j;
          tiles.tile(row, col)[i * tiles.side(col) + j] = r <= c ? value(r, c) : -1;
        }
      }
    }
  }
  const Range rows{200, 300}, cols{10, size};
  std::vector<double> part(static_cast<size_t>(rows.size() * 600));
  tiles.copy(rows, cols, part.data(), 600);
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    for (int64_t j = cols.begin; j < cols.end; ++j)
      ASSERT_EQ(part[static_cast<size_t>((i - rows.begin) * 600 + j - cols.begin)], value(i, j));
  }
}

}  // namespace
}  // namespace lamina

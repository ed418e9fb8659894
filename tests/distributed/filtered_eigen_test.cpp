// Leading eigenpairs by filters against LAPACK's, and against themselves on one rank.
#include "distributed/svd/filtered_eigen.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "distributed/svd/tall.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using svd::Eigenpairs;
using svd::filtered_eigen;
using svd::SymmetricTiles;
using test::world;

// Σ_k values(k)·h_k·h_kᵀ for columns h_k of a reflection I − 2xxᵀ/xᵀx: orthonormal ones.
SymmetricTiles with_eigenvalues(int64_t size, const std::function<double(int64_t)>& values) {
  std::vector<double> x(static_cast<size_t>(size)), value(x);
  double squared = 0, middle = 0;
  for (int64_t i = 0; i < size; ++i) {
    x[static_cast<size_t>(i)] = test::number(41, i, 0);
    value[static_cast<size_t>(i)] = values(i);
  }
  for (int64_t i = 0; i < size; ++i) {
    const double each = x[static_cast<size_t>(i)];
    squared += each * each;
    middle += each * each * value[static_cast<size_t>(i)];
  }
  SymmetricTiles matrix(size);
  for (int64_t ti = 0; ti < matrix.tiles(); ++ti) {
    for (int64_t tj = ti; tj < matrix.tiles(); ++tj) {
      double* to = matrix.tile(ti, tj);
      for (int64_t a = 0; a < matrix.side(ti); ++a) {
        for (int64_t b = 0; b < matrix.side(tj); ++b) {
          const size_t i = static_cast<size_t>(ti * SymmetricTiles::kSide + a);
          const size_t j = static_cast<size_t>(tj * SymmetricTiles::kSide + b);
          to[a * matrix.side(tj) + b] = (i == j ? value[i] : 0) -
                                        2 * x[i] * x[j] / squared * (value[i] + value[j]) +
                                        4 * x[i] * x[j] / squared / squared * middle;
        }
      }
    }
  }
  return matrix;
}

// This rank's share of it in float32, whose diagonal is scaled to below 2.
Matrix<float> own_rows(const SymmetricTiles& matrix, Communicator& comm, double& scale) {
  const int64_t size = matrix.size();
  const Range own = partition(size, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
  Matrix<double> whole(size, size);
  matrix.copy({0, size}, {0, size}, whole.data.data(), size);
  double largest = 0;
  for (int64_t i = 0; i < size; ++i) largest = std::max(largest, whole(i, i));
  scale = std::exp2(-std::ilogb(largest));
  Matrix<float> rows(own.size(), size);
  for (int64_t i = 0; i < rows.rows; ++i) {
    for (int64_t j = 0; j < size; ++j) rows(i, j) = static_cast<float>(whole(own.begin + i, j) * scale);
  }
  return rows;
}

Eigenpairs filtered(const SymmetricTiles& matrix, int64_t rank, Communicator& comm, int threads) {
  double scale = 1;
  Eigenpairs pairs = filtered_eigen(own_rows(matrix, comm, scale), rank, 3, comm, threads);
  for (double& value : pairs.values) value /= scale;
  return pairs;
}

struct Spectrum {
  const char* name;
  int64_t size, rank;
  double (*value)(int64_t);
};
void PrintTo(const Spectrum& s, std::ostream* os) {
  *os << s.name;
}

class FilteredEigen : public testing::TestWithParam<Spectrum> {};

TEST_P(FilteredEigen, KeepsWhatTheBestPairsKeep) {
  const auto [name, size, rank, value] = GetParam();
  const SymmetricTiles matrix = with_eigenvalues(size, value);
  const Eigenpairs pairs = filtered(matrix, rank, world(), 1);
  ASSERT_EQ(pairs.vectors.rows, rank);
  ASSERT_EQ(pairs.values.size(), static_cast<size_t>(rank));
  double best = 0, trace = 0, kept = 0;
  for (int64_t i = 0; i < size; ++i) {
    trace += value(i);
    if (i < rank) best += value(i);
  }
  std::vector<double> whole(static_cast<size_t>(size * size)), product(static_cast<size_t>(size));
  matrix.copy({0, size}, {0, size}, whole.data(), size);
  for (int64_t i = 0; i < rank; ++i) {
    const double* v = pairs.vectors.row(i);
    double quotient = 0;
    for (int64_t a = 0; a < size; ++a) {
      double sum = 0;
      for (int64_t b = 0; b < size; ++b) sum += whole[static_cast<size_t>(a * size + b)] * v[b];
      quotient += v[a] * sum;
    }
    ASSERT_NEAR(quotient, pairs.values[static_cast<size_t>(i)], 1e-5 * value(0)) << i;
    if (i > 0) {
      ASSERT_LE(pairs.values[static_cast<size_t>(i)], pairs.values[static_cast<size_t>(i - 1)]);
    }
    kept += quotient;
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t a = 0; a < size; ++a) dot += v[a] * pairs.vectors(j, a);
      ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-12) << i << ", " << j;
    }
  }
  // 1.0001 of the least error, squared.
  EXPECT_LE(trace - kept, (trace - best) * 1.0002);
  EXPECT_GE(trace - kept, (trace - best) * (1 - 1e-9));

  const auto self = make_self_communicator();
  const Eigenpairs alone = filtered(matrix, rank, *self, 2);
  EXPECT_EQ(alone.values, pairs.values);
  EXPECT_EQ(alone.vectors.data, pairs.vectors.data);
}

INSTANTIATE_TEST_SUITE_P(
    Spectra, FilteredEigen,
    testing::Values(Spectrum{"slow", 600, 70, [](int64_t i) { return 1 / (i + 1.0); }},
                    Spectrum{"ranks without rows", 300, 10, [](int64_t i) { return 1 / (i + 1.0); }},
                    Spectrum{"equal", 530, 40, [](int64_t) { return 2.0; }},
                    Spectrum{"far outliers", 600, 40,
                             [](int64_t i) { return i < 5 ? 5e3 / (i + 1) : std::pow(i, -0.5); }},
                    Spectrum{"odd", 517, 1, [](int64_t i) { return std::pow(i + 1.0, -0.7); }},
                    Spectrum{"bulk", 600, 64, [](int64_t i) { return 1.5 - std::sqrt((i + 1) / 601.0); }},
                    Spectrum{"outliers", 640, 40,
                             [](int64_t i) { return i < 9 ? 900.0 / (i + 1) : 1 - i / 700.0; }},
                    Spectrum{"gap", 530, 50, [](int64_t i) { return i < 50 ? 4.0 : 0.5; }}));

TEST(FilteredEigen, LeavesSteepSpectraToOthers) {
  const SymmetricTiles steep = with_eigenvalues(520, [](int64_t i) { return std::pow(10.0, -i / 4.0); });
  EXPECT_EQ(filtered(steep, 60, world(), 1).vectors.rows, 0);
  const SymmetricTiles of_rank = with_eigenvalues(520, [](int64_t i) { return i < 30 ? 1.0 : 0.0; });
  EXPECT_EQ(filtered(of_rank, 60, world(), 1).vectors.rows, 0);
}

// The whole factorisation by filters: any layout, any ranks, the same bits; and where filters give up.
TEST(FilteredEigen, MakesFactorsOfOneErrorOnAnyLayout) {
  for (const double decay : {0.5, 3.0}) {
    const Matrix<float> a = test::decaying(520, 700, decay, 400);
    const double optimum = test::optimal_error(test::exact_singular_values(a), 40);
    SvdOptions options;
    options.seed = 5;
    options.same_for_any_ranks = true;
    const auto factors = [&](Layout layout, Communicator& comm, int threads) {
      SpreadMatrix part{{a.rows, a.cols}, {.layout = layout}, {}};
      const bool by_rows = layout == Layout::rows;
      const Range own =
          partition(by_rows ? a.rows : a.cols, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
      part.local = by_rows ? Matrix<float>(own.size(), a.cols) : Matrix<float>(a.rows, own.size());
      for (int64_t i = 0; i < part.local.rows; ++i)
        std::copy_n(by_rows ? a.row(own.begin + i) : a.row(i) + own.begin, part.local.cols,
                    part.local.row(i));
      options.threads = threads;
      const SvdResult result = factorize(part, {.rank = 40}, options, comm);
      const double error = residual(part, result, comm, threads);
      EXPECT_LE(error, 1.0001 * optimum + 1.2e-7) << decay;
      EXPECT_GE(error, optimum * (1 - 1e-6) - 1.2e-7) << decay;
      EXPECT_LE(error, result.error_bound);
      // Filters do not know the optimum; of the steep spectrum LAPACK does.
      EXPECT_EQ(std::isnan(result.optimal_error), decay < 1);
      return result;
    };
    const SvdResult rows = factors(Layout::rows, world(), 1), columns = factors(Layout::columns, world(), 1);
    EXPECT_EQ(rows.singular_values, columns.singular_values);
    EXPECT_EQ(rows.u.data, columns.u.data);
    const auto self = make_self_communicator();
    EXPECT_EQ(factors(Layout::rows, *self, 2).singular_values, rows.singular_values);
  }
}

}  // namespace
}  // namespace lamina

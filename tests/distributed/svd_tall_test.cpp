// Orthonormal columns of tall matrices over ranks: by Cholesky where that does, by TSQR where it does not.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/compress.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/tsqr.hpp"
#include "tests/distributed/support.hpp"

namespace lamina::svd {
namespace {

using test::world;

Matrix<double> random_tall(int64_t rows, int64_t cols) {
  Matrix<double> tall(rows, cols);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) tall(i, j) = test::number(21, i, j);
  }
  return tall;
}

// Singular values about 1 to 10^−digits: noise, columns graded and mixed by rotations.
Matrix<double> graded(int64_t rows, int64_t cols, double digits) {
  Matrix<double> tall = random_tall(rows, cols);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j)
      tall(i, j) *= std::pow(10.0, -digits * static_cast<double>(j) / static_cast<double>(cols - 1));
    for (int round = 0; round < 2; ++round) {
      for (int64_t j = 0; j + 1 < cols; ++j) {
        const double a = tall(i, j), b = tall(i, j + 1);
        tall(i, j) = 0.6 * a + 0.8 * b;
        tall(i, j + 1) = 0.8 * a - 0.6 * b;
      }
    }
  }
  return tall;
}

Matrix<double> own_part(const Matrix<double>& whole, Communicator& comm) {
  const Range rows = slab_rows(whole.rows, comm);
  Matrix<double> part(rows.size(), whole.cols);
  std::copy(whole.row(rows.begin), whole.row(rows.end), part.data.begin());
  return part;
}

Matrix<double> gathered(const Matrix<double>& own, Communicator& comm) {
  Matrix<double> all(static_cast<int64_t>(comm.sum(static_cast<double>(own.rows))), own.cols);
  std::vector<int64_t> bytes;
  for (const Range& share : partition(all.rows, comm.size(), kRowBlock))
    bytes.push_back(8 * share.size() * own.cols);
  comm.all_gather(own.data.data(), all.data.data(), bytes);
  return all;
}

double distance_from_orthonormal(const Matrix<double>& q) {
  double most = 0;
  for (int64_t i = 0; i < q.cols; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t row = 0; row < q.rows; ++row) dot += q(row, i) * q(row, j);
      most = std::max(most, std::abs(dot - (i == j)));
    }
  }
  return most;
}

struct Case {
  const char* name;
  Matrix<double> tall;
};

std::vector<Case> hard_cases() {
  std::vector<Case> cases;
  cases.push_back({"well conditioned", random_tall(2500, 24)});
  cases.push_back({"condition 1e12", graded(2500, 24, 12)});
  Matrix<double> dependent = random_tall(1500, 20);
  for (int64_t i = 0; i < dependent.rows; ++i) {
    dependent(i, 7) = dependent(i, 3) - 2 * dependent(i, 5);
    dependent(i, 0) = dependent(i, 19) = 0;
  }
  cases.push_back({"dependent and zero columns", dependent});
  cases.push_back({"zeros", Matrix<double>(1300, 9)});
  cases.push_back({"fewer rows than columns", random_tall(10, 17)});
  cases.push_back({"ranks without rows", graded(130, 30, 12)});
  cases.push_back({"several leaves, the last shorter than R", random_tall(2053, 40)});
  cases.push_back({"one column", random_tall(300, 1)});
  return cases;
}

TEST(Tsqr, GivesOrthonormalColumnsAndTheMatrixWhateverItsRank) {
  for (const auto& [name, tall] : hard_cases()) {
    const TallQr found = tsqr(own_part(tall, world()), world(), 1);
    const Matrix<double> q = gathered(found.q, world());
    const int64_t kept = std::min(tall.rows, tall.cols);
    ASSERT_EQ(q.cols, kept) << name;
    ASSERT_EQ(found.r.rows, kept) << name;
    ASSERT_EQ(found.r.cols, tall.cols) << name;
    EXPECT_LE(distance_from_orthonormal(q), 1e-12) << name;
    double most = 0;
    for (const double each : tall.data) most = std::max(most, std::abs(each));
    for (int64_t i = 0; i < tall.rows; ++i) {
      for (int64_t j = 0; j < tall.cols; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < kept; ++k) sum += q(i, k) * found.r(k, j);
        ASSERT_NEAR(sum, tall(i, j), 1e-13 * most * static_cast<double>(tall.cols)) << name;
        if (i < kept && j < i) {
          ASSERT_EQ(found.r(i, j), 0) << name;
        }
      }
    }
  }
}

TEST(Tsqr, IsBitwiseTheSameOnAnyRankAndThreadCount) {
  const auto self = make_self_communicator();
  for (const auto& [name, tall] : hard_cases()) {
    const TallQr alone = tsqr(tall, *self, 2), spread = tsqr(own_part(tall, world()), world(), 1);
    EXPECT_EQ(gathered(spread.q, world()).data, alone.q.data) << name;
    EXPECT_EQ(spread.r.data, alone.r.data) << name;
  }
}

TEST(Orthonormalize, TakesCholeskyWhereItDoesAndElseTsqr) {
  const auto self = make_self_communicator();
  for (const auto& [name, tall] : hard_cases()) {
    if (tall.rows < tall.cols) continue;
    Matrix<double> alone = tall, own = own_part(tall, world());
    const Orthonormalized outcome = orthonormalize(own, world(), 1);
    EXPECT_EQ(orthonormalize(alone, *self, 2).by_tsqr, outcome.by_tsqr) << name;
    const Matrix<double> q = gathered(own, world());
    EXPECT_EQ(q.data, alone.data) << name;
    ASSERT_EQ(q.cols, tall.cols) << name;
    EXPECT_LE(distance_from_orthonormal(q), 1e-12) << name;
    const std::string text = name;
    const bool easy = text == "well conditioned" || text == "one column" || text.starts_with("several");
    EXPECT_EQ(outcome.by_tsqr, !easy) << name;
    if (easy) {
      EXPECT_LT(outcome.condition, 10) << name;
    }
  }
}

TEST(Orthonormalize, BearsConditionsUpToItsLimitAndColumnsOfAnySize) {
  for (const double digits : {3.0, 6.0, 7.0, 8.0}) {
    Matrix<double> own = own_part(graded(1100, 30, digits), world());
    orthonormalize(own, world(), 1);
    EXPECT_LE(distance_from_orthonormal(gathered(own, world())), 1e-12) << digits << " digits";
  }
  Matrix<double> tall = random_tall(700, 12);
  for (int64_t i = 0; i < tall.rows; ++i) {
    for (int64_t j = 0; j < tall.cols; ++j) tall(i, j) *= std::pow(10.0, 10.0 * static_cast<double>(j) - 60);
  }
  Matrix<double> own = own_part(tall, world());
  EXPECT_FALSE(orthonormalize(own, world(), 1).by_tsqr);
  EXPECT_LE(distance_from_orthonormal(gathered(own, world())), 1e-12);
}

TEST(Orthonormalize, BesideOtherColumnsIsOrthogonalToThem) {
  Matrix<double> q = own_part(random_tall(1000, 20), world());
  orthonormalize(q, world(), 1);
  Matrix<double> mixed = own_part(graded(1000, 10, 2), world()), inside(q.rows, 5), zero(q.rows, 7);
  for (int64_t i = 0; i < q.rows; ++i) {
    for (int64_t j = 0; j < 5; ++j) inside(i, j) = q(i, j) + 2 * q(i, j + 7);
  }
  for (Matrix<double>* tall : {&mixed, &inside, &zero}) {
    const Orthonormalized outcome = orthonormalize_beside(q, *tall, world(), 1);
    if (tall != &inside) {  // of which only rounding is left, which is independent or not
      EXPECT_EQ(outcome.by_tsqr, tall == &zero);
    }
    Matrix<double> both(q.rows, q.cols + tall->cols);
    for (int64_t i = 0; i < q.rows; ++i) {
      std::copy_n(q.row(i), q.cols, both.row(i));
      std::copy_n(tall->row(i), tall->cols, both.row(i) + q.cols);
    }
    EXPECT_LE(distance_from_orthonormal(gathered(both, world())), 1e-12);
  }
}

TEST(Orthonormalize, FailsOnEveryRankWhereAnElementIsNotFinite) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Matrix<double> tall = random_tall(500, 5);
    tall(499, 4) = bad;
    Matrix<double> own = own_part(tall, world());
    EXPECT_THROW(orthonormalize(own, world(), 1), AgreedError);
  }
}

TEST(InnerProducts, AreThoseOfAllRows) {
  const Matrix<double> x = random_tall(777, 300), y = graded(777, 5, 3);
  const Matrix<double> found = inner_products(own_part(x, world()), own_part(y, world()), world(), 1);
  const SymmetricTiles tiles = gram(own_part(x, world()), world(), 1);
  Matrix<double> squares(300, 300);
  tiles.copy({0, 300}, {0, 300}, squares.data.data(), 300);
  for (int64_t i = 0; i < 300; i += 37) {
    for (int64_t j = 0; j < 300; ++j) {
      double xx = 0, xy = 0;
      for (int64_t k = 0; k < 777; ++k) {
        xx += x(k, i) * x(k, j);
        if (j < 5) xy += x(k, i) * y(k, j);
      }
      EXPECT_NEAR(squares(i, j), xx, 1e-11);
      if (j < 5) {
        EXPECT_NEAR(found(i, j), xy, 1e-11);
      }
    }
  }
}

}  // namespace
}  // namespace lamina::svd

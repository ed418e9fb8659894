// What stands on ScaLAPACK and ELPA: block-cyclic layouts, the reference factorisation, eigensolvers over
// ranks.
#include "distributed/scalapack.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "distributed/partition.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using test::world;

// Not built: no reason to fail, but where everything was installed to be tested.
bool missing(const std::string& absent) {
  const char* ci = std::getenv("LAMINA_CI");
  if (!absent.empty() && ci != nullptr && std::string(ci) == "1") ADD_FAILURE() << absent;
  return !absent.empty();
}

#define LAMINA_NEEDS(absent) \
  if (missing(absent)) GTEST_SKIP() << (absent)

std::vector<Distribution> grids(int ranks, int64_t block) {
  std::vector<Distribution> all;
  for (int rows = 1; rows <= ranks; ++rows) {
    if (ranks % rows == 0) all.push_back({Layout::block_cyclic, rows, ranks / rows, block});
  }
  return all;
}

// Places in the whole of one rank's rows (or columns), by the layout's definition.
std::vector<int64_t> places(int64_t size, int64_t block, int place, int places) {
  std::vector<int64_t> list;
  for (int64_t i = 0; i < size; ++i) {
    if (i / block % places == place) list.push_back(i);
  }
  return list;
}

std::vector<int64_t> range_places(const Range& range) {
  std::vector<int64_t> list;
  for (int64_t i = range.begin; i < range.end; ++i) list.push_back(i);
  return list;
}

// The matrix number(seed, i, j) in a layout.
SpreadMatrix spread(Shape shape, const Distribution& d, Communicator& comm, uint64_t seed) {
  const size_t own = static_cast<size_t>(comm.rank());
  std::vector<int64_t> rows = range_places({0, shape.out_features}),
                       cols = range_places({0, shape.in_features});
  if (d.layout == Layout::rows) {
    rows = range_places(partition(shape.out_features, comm.size(), kRowBlock)[own]);
  } else if (d.layout == Layout::columns) {
    cols = range_places(partition(shape.in_features, comm.size(), kRowBlock)[own]);
  } else {
    rows = places(shape.out_features, d.block, comm.rank() / d.grid_cols, d.grid_rows);
    cols = places(shape.in_features, d.block, comm.rank() % d.grid_cols, d.grid_cols);
  }
  SpreadMatrix a{shape, d,
                 Matrix<float>(static_cast<int64_t>(rows.size()), static_cast<int64_t>(cols.size()))};
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < cols.size(); ++j) {
      a.local(static_cast<int64_t>(i), static_cast<int64_t>(j)) = test::number(seed, rows[i], cols[j]);
    }
  }
  return a;
}

void expect_moves(Shape shape, int64_t block, Communicator& comm) {
  std::vector<Distribution> layouts = grids(comm.size(), block);
  layouts.push_back({Layout::rows});
  layouts.push_back({Layout::columns});
  for (const Distribution& from : layouts) {
    const SpreadMatrix a = spread(shape, from, comm, 5);
    for (const Distribution& to : layouts) {
      const SpreadMatrix b = redistribute(a, to, comm, 1);
      EXPECT_EQ(b.shape, shape);
      EXPECT_EQ(b.local.data, spread(shape, to, comm, 5).local.data)
          << shape.out_features << " × " << shape.in_features << ", block " << block << ", layout "
          << static_cast<int>(from.layout) << " grid " << from.grid_rows << " to "
          << static_cast<int>(to.layout) << " grid " << to.grid_rows;
    }
  }
}

TEST(Scalapack, EveryLayoutBecomesEveryOther) {
  LAMINA_NEEDS(svd::scalapack_absent());
  // Fewer rows than ranks; slabs of two sizes; a last one that is smaller; empty ones.
  for (const Shape shape : {Shape{1, 1}, Shape{1, 700}, Shape{650, 1}, Shape{3, 2}, Shape{129, 257},
                            Shape{515, 384}, Shape{384, 700}, Shape{900, 130}}) {
    for (const int64_t block : {1, 7, 64, 1000}) {
      if (block == 1 && shape.out_features * shape.in_features > 100'000) continue;
      expect_moves(shape, block, world());
    }
  }
}

TEST(Scalapack, LargePartsMoveInSeveralCalls) {
  LAMINA_NEEDS(svd::scalapack_absent());
  const Shape shape{3000, 7001};  // 84 MB
  const Distribution blocks = grids(world().size(), 64).front();
  for (const Layout layout : {Layout::rows, Layout::columns}) {
    const SpreadMatrix a = spread(shape, {layout}, world(), 6);
    const SpreadMatrix there = redistribute(a, blocks, world(), 1);
    ASSERT_TRUE(there.local.data == spread(shape, blocks, world(), 6).local.data);
    ASSERT_TRUE(redistribute(there, {layout}, world(), 1).local.data == a.local.data);
  }
}

TEST(Scalapack, PartsOfALaunchAndOneProcessWork) {
  LAMINA_NEEDS(svd::scalapack_absent());
  for (int ranks = 1; ranks <= world().size(); ++ranks) {
    const auto part = world().subset(ranks);
    if (part) expect_moves({260, 131}, 32, *part);
  }
  expect_moves({260, 131}, 32, *make_self_communicator());
}

TEST(Scalapack, BadGridsFailOnEveryRank) {
  LAMINA_NEEDS(svd::scalapack_absent());
  const SpreadMatrix a = spread({40, 50}, {}, world(), 1);
  for (const Distribution bad : {Distribution{Layout::block_cyclic, world().size() + 1, 1, 8},
                                 Distribution{Layout::block_cyclic, 0, 1, 8},
                                 Distribution{Layout::block_cyclic, -1, -world().size(), 8},
                                 Distribution{Layout::block_cyclic, world().size(), 1, 0}}) {
    EXPECT_NE(test::agreed_failure(world(), [&] { redistribute(a, bad, world(), 1); }), "");
    const SvdOptions options{.method = "scalapack",
                             .grid_rows = bad.grid_rows == 0 ? 7 : bad.grid_rows,
                             .grid_cols = bad.grid_cols,
                             .block = bad.block};
    EXPECT_NE(test::agreed_failure(world(), [&] { factorize(a, {.rank = 4}, options, world()); }), "");
  }
}

TEST(Scalapack, WorkspacePast32BitsIsRefused) {
  LAMINA_NEEDS(svd::scalapack_absent());
  const SpreadMatrix a = spread({300, 280}, {}, world(), 1);
  EXPECT_THAT(
      test::agreed_failure(
          world(),
          [&] { factorize(a, {.rank = 4}, {.method = "scalapack", .block = int64_t{1} << 24}, world()); }),
      testing::HasSubstr("32 bits"));
}

struct Case {
  Shape shape;
  int64_t rank, block;
  bool deficient = false;
};
void PrintTo(const Case& c, std::ostream* os) {
  *os << c.shape.out_features << "x" << c.shape.in_features << " r" << c.rank << " b" << c.block;
}
class Gesvd : public testing::TestWithParam<Case> {};

double dot(const Matrix<float>& m, int64_t a, int64_t b) {
  double sum = 0;
  for (int64_t i = 0; i < m.rows; ++i) sum += static_cast<double>(m(i, a)) * m(i, b);
  return sum;
}

TEST_P(Gesvd, IsTheReference) {
  LAMINA_NEEDS(svd::scalapack_absent());
  const Case c = GetParam();
  SpreadMatrix a = spread(c.shape, {}, world(), 9);
  if (c.deficient) {
    for (int64_t i = 0; i < a.local.rows; ++i) {
      for (int64_t j = 0; j < a.local.cols; ++j) a.local(i, j) = test::number(9, 0, j);
    }
  }
  const auto self = make_self_communicator();
  const SvdResult truth = [&] {
    SpreadMatrix alone = spread(c.shape, {}, *self, 9);
    if (c.deficient) {
      for (int64_t i = 0; i < alone.local.rows; ++i)
        std::copy_n(alone.local.row(0), alone.local.cols, alone.local.row(i));
    }
    return factorize(alone, {.rank = c.rank}, {.method = "lapack"}, *self);
  }();
  for (const char* method : {"scalapack", "scalapack-f64"}) {
    for (const Distribution& grid : grids(world().size(), c.block)) {
      const SvdResult result = factorize(
          redistribute(a, grid, world(), 1), {.rank = c.rank},
          {.method = method, .grid_rows = grid.grid_rows, .grid_cols = grid.grid_cols, .block = c.block},
          world());
      ASSERT_EQ(result.singular_values.size(), static_cast<size_t>(c.rank));
      ASSERT_EQ(result.u.rows, a.local.rows);
      for (size_t i = 0; i < result.singular_values.size(); ++i) {
        EXPECT_NEAR(result.singular_values[i], truth.singular_values[i], 1e-5 * truth.singular_values[0])
            << method;
      }
      EXPECT_LE(residual(a, result, world(), 1), result.error_bound + 1e-12) << method;
      EXPECT_NEAR(result.optimal_error, truth.optimal_error, 1e-5);
      for (int64_t p = 0; p < c.rank; ++p) {
        for (int64_t q = 0; q <= p && q < 5; ++q) {
          EXPECT_NEAR(world().sum(dot(result.u, p, q)), p == q ? 1 : 0, 1e-5) << method;
          EXPECT_NEAR(world().sum(dot(result.v, p, q)), p == q ? 1 : 0, 1e-5) << method;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Gesvd,
                         testing::Values(Case{{1, 1}, 1, 4}, Case{{1, 300}, 1, 64}, Case{{300, 1}, 1, 64},
                                         Case{{5, 3}, 3, 2}, Case{{140, 300}, 20, 16},
                                         Case{{300, 140}, 140, 32}, Case{{257, 257}, 10, 64},
                                         Case{{130, 150}, 1, 7, true}));

TEST(Scalapack, ErrorGivesTheLeastRankThatMeetsIt) {
  LAMINA_NEEDS(svd::scalapack_absent());
  const SpreadMatrix a = spread({200, 150}, {}, world(), 4);
  const SvdResult result = factorize(a, {.error = 0.5}, {.method = "scalapack"}, world());
  EXPECT_LE(result.error_bound, 0.5);
  const auto fewer = static_cast<int64_t>(result.singular_values.size()) - 1;
  EXPECT_GT(factorize(a, {.rank = fewer}, {.method = "scalapack"}, world()).error_bound, 0.5);
}

// --- eigensolvers

using Make = std::function<double(int64_t i, int64_t j)>;

svd::SymmetricTiles tiles_of(int64_t size, const Make& element) {
  svd::SymmetricTiles tiles(size);
  for (int64_t row = 0; row < tiles.tiles(); ++row) {
    for (int64_t col = row; col < tiles.tiles(); ++col) {
      double* to = tiles.tile(row, col);
      for (int64_t i = 0; i < tiles.side(row); ++i) {
        for (int64_t j = 0; j < tiles.side(col); ++j)
          *to++ = element(row * svd::SymmetricTiles::kSide + i, col * svd::SymmetricTiles::kSide + j);
      }
    }
  }
  return tiles;
}

using Solve = svd::Eigenpairs (*)(svd::SymmetricTiles&&, const svd::ChooseRank&, Communicator&, int);

void expect_eigenpairs(Solve solve, int64_t size, int64_t count, const Make& element, Communicator& comm) {
  const auto self = make_self_communicator();
  const svd::Eigenpairs truth = svd::lapack_eigen(
      tiles_of(size, element), [](const auto&) { return int64_t{0}; }, *self, 1);
  size_t seen = 0;
  const svd::Eigenpairs pairs = solve(
      tiles_of(size, element),
      [&](const std::vector<double>& values) {
        seen = values.size();
        return count;
      },
      comm, 1);
  if (comm.rank() == 0) {
    EXPECT_EQ(seen, static_cast<size_t>(size));
  }
  ASSERT_EQ(pairs.values.size(), static_cast<size_t>(size));
  ASSERT_EQ(pairs.vectors.rows, count);
  ASSERT_EQ(pairs.vectors.cols, size);
  double norm = 1e-300;
  for (const double value : truth.values) norm = std::max(norm, std::abs(value));
  const double close = 1e-13 * static_cast<double>(size + 10);
  for (size_t i = 0; i < pairs.values.size(); ++i)
    EXPECT_NEAR(pairs.values[i], truth.values[i], close * norm);
  for (int64_t p = 0; p < count; ++p) {
    const double* v = pairs.vectors.row(p);
    for (int64_t q = 0; q <= p; ++q) {
      double product = 0;
      for (int64_t i = 0; i < size; ++i) product += v[i] * pairs.vectors(q, i);
      ASSERT_NEAR(product, p == q ? 1 : 0, 1e-9) << p << ", " << q << " of " << size;
    }
    double rest = 0;
    for (int64_t i = 0; i < size; ++i) {
      double sum = -pairs.values[static_cast<size_t>(p)] * v[i];
      for (int64_t j = 0; j < size; ++j) sum += element(i, j) * v[j];
      rest = std::max(rest, std::abs(sum));
    }
    ASSERT_LE(rest, close * norm);
  }
}

double symmetric_number(int64_t i, int64_t j) {
  // Definite where it is 2 × 2: LAPACK's dstemr takes the larger of two by magnitude.
  return static_cast<double>(test::number(3, std::min(i, j), std::max(i, j))) + (i == j ? 3 : 0);
}

void expect_eigensolver(Solve solve) {
  for (const auto& [size, count] :
       {std::pair<int64_t, int64_t>{1, 1}, {2, 1}, {3, 3}, {31, 0}, {33, 33}, {64, 5}, {97, 97}, {260, 40}})
    expect_eigenpairs(solve, size, count, symmetric_number, world());
  // Clusters, which ranks must not cut: one eigenvalue for all, two, nearly one, none but one.
  const int64_t n = 90;
  expect_eigenpairs(
      solve, n, n, [](int64_t i, int64_t j) { return i == j ? 2.0 : 0.0; }, world());
  expect_eigenpairs(
      solve, n, n, [](int64_t i, int64_t j) { return i == j ? 1.0 + (i % 2) : 0.0; }, world());
  expect_eigenpairs(
      solve, n, n, [](int64_t i, int64_t j) { return (i == j) + 1e-14 * symmetric_number(i, j); }, world());
  expect_eigenpairs(
      solve, n, n, [](int64_t, int64_t) { return 1.0; }, world());
  // Wilkinson's: pairs closer than any gap that shows.
  expect_eigenpairs(
      solve, 81, 81,
      [](int64_t i, int64_t j) {
        return i == j ? std::abs(40.0 - static_cast<double>(i)) : std::abs(i - j) == 1;
      },
      world());
  for (int ranks = 1; ranks <= world().size(); ++ranks) {
    const auto part = world().subset(ranks);
    if (part) expect_eigenpairs(solve, 70, 20, symmetric_number, *part);
  }
  expect_eigenpairs(solve, 70, 20, symmetric_number, *make_self_communicator());
}

TEST(Scalapack, EigenpairsAreLapacks) {
  LAMINA_NEEDS(svd::scalapack_absent());
  expect_eigensolver(svd::scalapack_eigen);
}

TEST(Elpa, EigenpairsAreLapacks) {
  LAMINA_NEEDS(svd::elpa_absent());
  expect_eigensolver(svd::elpa_eigen);
}

}  // namespace
}  // namespace lamina

// Cutting, loading, compressing and redistributing: the same weights on any rank count.
#include "distributed/compress.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "distributed/partition.hpp"
#include "kernels/registry.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

TEST(Partition, CutsEvenlyAtUnits) {
  EXPECT_EQ(partition(10, 3), (std::vector<Range>{{0, 4}, {4, 7}, {7, 10}}));
  EXPECT_EQ(partition(131, 2, 128), (std::vector<Range>{{0, 128}, {128, 131}}));
  EXPECT_EQ(partition(100, 3, 64), (std::vector<Range>{{0, 64}, {64, 100}, {100, 100}}));
  EXPECT_EQ(partition(0, 2), (std::vector<Range>{{0, 0}, {0, 0}}));
  EXPECT_THROW(partition(-1, 2), std::invalid_argument);
  EXPECT_THROW(partition(5, 0), std::invalid_argument);
  EXPECT_THROW(partition(5, 1, 0), std::invalid_argument);
  for (int64_t size = 0; size < 70; ++size) {
    for (int parts = 1; parts < 6; ++parts) {
      for (int64_t unit = 1; unit < 9; ++unit) {
        int64_t next = 0;
        for (const Range& range : partition(size, parts, unit)) {
          ASSERT_EQ(range.begin, next);
          ASSERT_LE(range.begin, range.end);
          ASSERT_TRUE(range.begin % unit == 0 || range.begin == size);
          next = range.end;
        }
        ASSERT_EQ(next, size);
      }
    }
  }
}

TEST(LoadWeights, EachRankReadsItsSlab) {
  const Matrix<float> whole = test::random_matrix(300, 40, 1);
  const OriginalWeights weights = load_weights(test::MatrixSource(whole), world(), 1);
  EXPECT_EQ(weights.rows, slab_rows(300, world()));
  EXPECT_EQ(weights.slab.data,
            PagedVector<float>(whole.row(weights.rows.begin), whole.row(weights.rows.end)));
}

TEST(LoadWeights, OneRanksFailureIsEveryones) {
  // The last rank's slab alone holds it, whatever the rank count.
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Matrix<float> whole = test::random_matrix(600, 8, 1);
    whole(599, 3) = bad;
    try {
      load_weights(test::MatrixSource(whole), world(), 1);
      FAIL() << "accepted " << bad;
    } catch (const AgreedError& error) {
      EXPECT_NE(std::string(error.what()).find("row 599, column 3"), std::string::npos) << error.what();
    }
  }
  class Unreadable final : public WeightSource {
   public:
    Shape shape() const override { return {600, 8}; }
    void read_rows(Range rows, float*, int) const override {
      if (rows.end == 600) throw std::runtime_error("w.safetensors: unexpected end of file");
    }
    std::string describe() const override { return "w.safetensors"; }
  };
  EXPECT_THROW(load_weights(Unreadable(), world(), 1), AgreedError);
}

// A scheme of this test: floats as they are, or failing on the slab with a certain row.
class Plain final : public Scheme {
 public:
  explicit Plain(int64_t bad_row = -1, bool factorize = false, int64_t unit = 1)
      : bad_row_(bad_row), factorize_(factorize), unit_(unit) {}
  std::string name() const override { return "plain"; }
  std::vector<std::pair<std::string, Value>> describe() const override { return {}; }
  CutUnits units() const override { return {unit_, 1}; }
  int64_t estimated_weight_bytes(Shape) const override { return 0; }
  int64_t estimated_canonical_bytes(Shape) const override { return 0; }
  double estimated_macs(Shape) const override { return 0; }
  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    if (bad_row_ >= slab.row_begin && bad_row_ < slab.row_begin + slab.rows.rows)
      throw std::runtime_error("bad row");
    if (factorize_) context.factorizer.factorize(slab, {.rule = {.rank = 2}, .method = "randomized"}, 1);
    Leaf leaf;
    leaf.rows = slab.rows.rows;
    leaf.cols = leaf.whole_cols = slab.shape.in_features;
    leaf.whole_rows = slab.shape.out_features;
    leaf.row_begin = slab.row_begin;
    leaf.values = slab.rows.data;
    return {{leaf}};
  }

 private:
  int64_t bad_row_;
  bool factorize_;
  int64_t unit_;
};

TEST(Promise, IsBrokenPastItsBoundAndByWhatIsNoNumber) {
  const double none = std::nan("");
  EXPECT_FALSE(Promise().broken());
  EXPECT_FALSE((Promise{0.5, none}.broken()));
  EXPECT_FALSE((Promise{0.5, 0.5}.broken()));
  EXPECT_FALSE((Promise{0, 0}.broken()));
  EXPECT_TRUE((Promise{0.5, 0.4}.broken()));
  EXPECT_TRUE((Promise{1e-9, 0}.broken()));
  EXPECT_TRUE((Promise{none, 0.4}.broken()));
}

TEST(Promise, TheOneNearestToItsBoundStaysInAnyOrder) {
  const std::vector<Promise> rising = {{}, {0, 0}, {0.2, 0.5}, {0.9, 1}, {0.5, 0.4}, {0.5, 0.1}, {1, 0}};
  for (size_t less = 0; less < rising.size(); ++less) {
    for (size_t more = less + 1; more < rising.size(); ++more) {
      Promise first = rising[less], last = rising[more];
      first.merge(rising[more]);
      last.merge(rising[less]);
      EXPECT_EQ(first.bound, rising[more].bound) << less << ", " << more;
      EXPECT_EQ(last.bound, rising[more].bound) << less << ", " << more;
    }
  }
  Promise unknown{std::nan(""), 0.5};
  unknown.merge({0.2, 0.5});
  EXPECT_TRUE(unknown.broken());
}

TEST(Compress, OneRanksFailureIsEveryonesBeforeAndAfterCollectives) {
  const OriginalWeights weights =
      load_weights(test::MatrixSource(test::random_matrix(600, 8, 1)), world(), 1);
  for (const bool factorize : {false, true}) {
    const CompressedWeights good = compress(Plain(-1, factorize), weights, world(), 1);
    EXPECT_EQ(good.canonical.leaves[0].rows, weights.rows.size());
    EXPECT_GE(good.seconds, 0);
    EXPECT_GE(good.peak_bytes, weights.rows.size() * 8 * 4);
    EXPECT_THROW(compress(Plain(599, factorize), weights, world(), 1), AgreedError);
    EXPECT_THROW(compress(Plain(0, factorize), weights, world(), 1), AgreedError);
  }
  if (world().size() > 1) {
    EXPECT_THROW(compress(Plain(-1, false, 96), weights, world(), 1), AgreedError);
  }
}

Leaf plain_leaf(int64_t n, int64_t k, Communicator& comm) {
  const OriginalWeights weights = load_weights(test::MatrixSource(test::random_matrix(n, k, 5)), comm, 1);
  return compress(Plain(), weights, comm, 1).canonical.leaves[0];
}

TEST(Redistribute, GivesEveryRankWhatItAsksFor) {
  const int64_t n = 700, k = 30;
  const Leaf leaf = plain_leaf(n, k, world());
  const Matrix<float> whole = test::random_matrix(n, k, 5);
  const int rank = world().rank();
  const std::vector<std::vector<Range>> wishes = {
      {{0, n}}, {{600, 700}, {0, 100}}, {{5, 6}, {127, 129}, {300, 650}}, {}, {{200, 200}}};
  for (size_t shift = 0; shift < wishes.size(); ++shift) {
    const auto& rows = wishes[(static_cast<size_t>(rank) + shift) % wishes.size()];
    const Range cols{rank % 3, k - rank};
    const Leaf got = redistribute(leaf, rows, cols, world());
    std::vector<float> expected;
    for (const Range& range : rows) {
      for (int64_t i = range.begin; i < range.end; ++i) {
        expected.insert(expected.end(), whole.row(i) + cols.begin, whole.row(i) + cols.end);
      }
    }
    EXPECT_EQ(got.values, PagedVector<float>(expected.begin(), expected.end()));
    EXPECT_EQ(got.cols, cols.size());
    EXPECT_EQ(got.rows * got.cols, static_cast<int64_t>(expected.size()));
  }
  const Leaf none = redistribute(leaf, {{0, n}}, {3, 3}, world());
  EXPECT_EQ(none.cols, 0);
}

TEST(Redistribute, RefusesWhatNobodyHolds) {
  const Leaf leaf = plain_leaf(200, 6, world());
  EXPECT_THROW(redistribute(leaf, {{150, world().rank() == 0 ? 201 : 200}}, {0, 6}, world()), AgreedError);
  EXPECT_THROW(redistribute(leaf, {{0, 200}}, {0, world().rank() == world().size() - 1 ? 7 : 6}, world()),
               AgreedError);
}

TEST(Compress, CodesAreIdenticalForAnyRankCount) {
  Registry registry;
  register_kernels(registry);
  const Matrix<float> whole = test::random_matrix(515, 320, 5);
  const test::MatrixSource source(whole);
  const auto self = make_self_communicator();
  for (const test::SchemeCase& each : test::scheme_cases()) {
    const auto scheme = test::make_scheme(each, source.shape(), registry);
    if (!scheme) continue;
    const Canonical alone = compress(*scheme, load_weights(source, *self, 1), *self, 3).canonical;
    const CompressedWeights spread = compress(*scheme, load_weights(source, world(), 1), world(), 3);
    ASSERT_EQ(spread.canonical.leaves.size(), alone.leaves.size());
    for (size_t i = 0; i < alone.leaves.size(); ++i) {
      // Q and U by rows, V whole.
      const Leaf& all = alone.leaves[i];
      const bool v = i > 0 && i + 1 == alone.leaves.size();
      const Leaf expected = v ? all : slice(all, spread.rows, {0, all.cols});
      EXPECT_EQ(serialize(spread.canonical.leaves[i]), serialize(expected))
          << scheme->name() << ", leaf " << i;
    }
  }
}

// ‖W − Ŵ‖² with Ŵ multiplied out, of the whole matrix on one rank.
double squared_distance(const Matrix<float>& w, const Canonical& canonical) {
  double sum = 0;
  std::vector<double> row(static_cast<size_t>(w.cols)), u, v(static_cast<size_t>(w.cols));
  for (int64_t i = 0; i < w.rows; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    if (!canonical.is_chain()) dequantize_row(canonical.leaves[0], i, row.data());
    if (canonical.has_factors()) {
      const Leaf& factor = canonical.leaves[canonical.leaves.size() - 2];
      u.resize(static_cast<size_t>(factor.cols));
      dequantize_row(factor, i, u.data());
      for (size_t r = 0; r < u.size(); ++r) {
        dequantize_row(canonical.leaves.back(), static_cast<int64_t>(r), v.data());
        for (size_t j = 0; j < row.size(); ++j) row[j] += u[r] * v[j];
      }
    }
    for (size_t j = 0; j < row.size(); ++j) {
      const double difference = static_cast<double>(w.row(i)[j]) - row[j];
      sum += difference * difference;
    }
  }
  return sum;
}

TEST(Compress, SaysHowFarTheWeightsMoved) {
  Registry registry;
  register_kernels(registry);
  const Matrix<float> whole = test::random_matrix(515, 320, 5);
  double norm = 0;
  for (const float w : whole.data) norm += static_cast<double>(w) * static_cast<double>(w);
  const test::MatrixSource source(whole);
  const auto self = make_self_communicator();
  int known = 0, unknown = 0;
  for (const test::SchemeCase& each : test::scheme_cases()) {
    const auto scheme = test::make_scheme(each, source.shape(), registry);
    if (!scheme) continue;
    const Canonical alone = compress(*scheme, load_weights(source, *self, 1), *self, 3).canonical;
    const CompressedWeights spread = compress(*scheme, load_weights(source, world(), 1), world(), 3);
    EXPECT_NEAR(spread.norm_squared, norm, 1e-9 * norm);
    const bool dense_factors = alone.leaves.back().bits == 32 && alone.leaves.back().mask.empty();
    if (alone.has_factors() && !dense_factors) {
      EXPECT_TRUE(std::isnan(spread.error_squared)) << scheme->name();
      ++unknown;
    } else {
      const double expected = squared_distance(whole, alone);
      EXPECT_NEAR(spread.error_squared, expected, 1e-4 * expected) << scheme->name();
      ++known;
    }
  }
  EXPECT_GE(known, 4);
  EXPECT_GE(unknown, 1);
}

}  // namespace
}  // namespace lamina

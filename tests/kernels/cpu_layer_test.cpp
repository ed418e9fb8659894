// Rows are packed by the threads that compute them; two layers in one region give what they give one by one.
#include "kernels/cpu/cpu_layer.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

// Notes which thread packs and which computes each row.
class NotingLayer final : public CpuLayer {
 public:
  NotingLayer(const Leaf& leaf, const LayerOptions& options, int64_t unit)
      : CpuLayer(leaf, options, 1),
        packed(static_cast<size_t>(rows_), -1),
        computed(static_cast<size_t>(rows_), -1) {
    row_unit_ = unit;
    pack_rows(rows_, row_unit_, threads_, [&](Range rows) {
      EXPECT_EQ(rows.begin % row_unit_, 0);
      note(rows, packed);
    });
  }

  std::vector<int> packed, computed;

 protected:
  void prepare(const float*, int64_t, int, int) override {}
  void compute(const float*, float*, int64_t, Range rows, int) override { note(rows, computed); }

 private:
  static void note(Range rows, std::vector<int>& threads) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      EXPECT_EQ(threads[static_cast<size_t>(row)], -1) << "dealt twice";
      threads[static_cast<size_t>(row)] = omp_get_thread_num();
    }
  }
};

TEST(CpuLayer, PacksRowsWhereTheyAreComputed) {
  for (int64_t rows : {1, 7, 64, 131}) {
    for (int64_t unit : {1, 4, 16, 48}) {
      for (int threads : {1, 2, 3, 5}) {
        Leaf leaf;
        leaf.rows = leaf.whole_rows = rows;
        leaf.cols = leaf.whole_cols = 1;
        leaf.values.resize(static_cast<size_t>(rows));
        NotingLayer layer(leaf, {.max_tokens = 1, .threads = threads}, unit);
        Stream stream{threads};
        float x = 0, y = 0;
        layer.forward(&x, &y, 1, stream);
        EXPECT_EQ(layer.packed, layer.computed)
            << rows << " rows by " << unit << ", " << threads << " threads";
        for (int thread : layer.packed) EXPECT_GE(thread, 0) << "dealt to nobody";
      }
    }
  }
}

// V [40 × 96] and then U [131 × 40]: each format first and second, with and without padding, and a layer that
// is no CpuLayer after one that is. A missing barrier would show as a stale or poisoned middle.
TEST(CpuLayer, TwoLayersInOneRegionGiveWhatTwoForwardsGive) {
  const auto leaf_of = [](const std::string& type, Shape shape, uint64_t seed) {
    Problems problems;
    return compress_whole(*make_scheme(type, {}, shape, problems),
                          random_matrix(shape.out_features, shape.in_features, seed))
        .leaves.front();
  };
  struct Pair {
    const char *first, *second, *second_kernel;
  };
  for (const Pair& pair :
       {Pair{"dense", "dense", "native"}, Pair{"int8", "dense", "native"}, Pair{"dense", "int8", "native"},
        Pair{"pruned", "pruned", "native"}, Pair{"dense", "dense", "openblas"}}) {
    const Leaf v = leaf_of(pair.first, {40, 96}, 1), u = leaf_of(pair.second, {131, 40}, 2);
    for (int made_for : {1, 2, 5}) {
      for (int threads : {1, 2, 5}) {
        for (int64_t tokens : {1, 2, 13}) {
          const LayerOptions options{.max_tokens = tokens, .threads = made_for};
          const auto first = test_registry().choose("native", "cpu", v, nullptr)->make(v, options);
          const auto second = test_registry().choose(pair.second_kernel, "cpu", u, nullptr)->make(u, options);
          Stream stream{threads};
          for (uint64_t call = 0; call < 5; ++call) {
            const Matrix<float> x = random_matrix(tokens, v.cols, 3 + call);
            Matrix<float> middle(tokens, v.rows), y(tokens, u.rows);
            first->forward(x.data.data(), middle.data.data(), tokens, stream);
            second->forward(middle.data.data(), y.data.data(), tokens, stream);
            GuardedOutput between(tokens * v.rows), output(tokens * u.rows);
            first->forward_then(*second, x.data.data(), between.y(), output.y(), tokens, stream);
            SCOPED_TRACE(std::string(pair.first) + ", " + pair.second + " by " + pair.second_kernel + ", " +
                         std::to_string(tokens) + " tokens, " + std::to_string(threads) + " threads of " +
                         std::to_string(made_for));
            EXPECT_TRUE(std::equal(middle.data.begin(), middle.data.end(), between.y()));
            EXPECT_TRUE(std::equal(y.data.begin(), y.data.end(), output.y()));
            EXPECT_TRUE(between.intact() && output.intact());
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lamina

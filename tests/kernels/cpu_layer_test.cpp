// Rows are packed by the threads that compute them.
#include "kernels/cpu/cpu_layer.hpp"

#include <gtest/gtest.h>

#include <vector>

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

}  // namespace
}  // namespace lamina

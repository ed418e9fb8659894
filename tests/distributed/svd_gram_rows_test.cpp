// The Gram matrix for filters against float64 products, on any ranks, threads and layouts.
#include <gtest/gtest.h>

#include <cmath>

#include "distributed/svd/coarse.hpp"
#include "distributed/svd/gram_rows.hpp"
#include "distributed/svd/tall.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

// This rank's rows, by the layout.
Matrix<float> rows_of(const Matrix<float>& a, Layout layout, Communicator& world, int threads, bool coarse) {
  const SpreadMatrix part = spread(a, layout, world);
  svd::Input input{part.shape, part.distribution, part.local};
  TimedCommunicator comm(world);
  input.max_abs = max_abs(part.local, comm);
  input.norm_squared = svd::exact_squares(input, comm, threads);
  return svd::gram_rows(input, comm, threads, coarse);
}

TEST(GramRows, AreThoseOfTheProduct) {
  const Shape shapes[] = {{700, 300}, {300, 700}, {520, 131}, {640, 512}, {129, 900}, {260, 260}, {100, 50}};
  for (const Shape shape : shapes) {
    Matrix<float> a = random_matrix(shape.out_features, shape.in_features, 7);
    const bool long_is_rows = a.rows >= a.cols;
    const int64_t size = std::min(a.rows, a.cols), longer = std::max(a.rows, a.cols);
    const auto element = [&](int64_t k, int64_t i) -> float& { return long_is_rows ? a(k, i) : a(i, k); };
    // Lengths far apart, and zeros.
    for (int64_t k = 0; k < longer; ++k) {
      for (int64_t i = 0; i < size; ++i)
        element(k, i) *= i == 3 ? 0.0f : std::exp2(static_cast<float>(-i % 7));
    }
    Matrix<double> expected(size, size);
    double largest = 0;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        for (int64_t k = 0; k < longer; ++k)
          expected(i, j) += static_cast<double>(element(k, i)) * element(k, j);
      }
      largest = std::max(largest, expected(i, i));
    }
    for (const bool coarse : {false, true}) {
      if (coarse && !svd::coarse_is_fast()) continue;
      const Matrix<float> rows = rows_of(a, Layout::rows, world(), 1, coarse);
      const Range own = partition(size, world().size(), kRowBlock)[static_cast<size_t>(world().rank())];
      ASSERT_EQ(rows.rows, own.size());
      ASSERT_EQ(rows.cols, size);
      // By a power of four.
      const double scale = std::exp2(-2 * (std::ilogb(std::sqrt(largest)) + 1));
      for (int64_t i = 0; i < rows.rows; ++i) {
        for (int64_t j = 0; j < size; ++j) {
          const double lengths = std::sqrt(expected(own.begin + i, own.begin + i) * expected(j, j));
          ASSERT_NEAR(rows(i, j), expected(own.begin + i, j) * scale,
                      (coarse ? 4e-3 : 1e-6) * lengths * scale)
              << a.rows << " × " << a.cols << " at " << own.begin + i << ", " << j;
        }
      }
      if (a.rows != a.cols) {
        EXPECT_EQ(rows_of(a, Layout::columns, world(), 2, coarse).data, rows.data)
            << a.rows << " × " << a.cols;
      }
      const auto self = make_self_communicator();
      const Matrix<float> alone = rows_of(a, Layout::rows, *self, 2, coarse);
      for (int64_t i = 0; i < rows.rows; ++i) {
        for (int64_t j = 0; j < size; ++j) ASSERT_EQ(rows(i, j), alone(own.begin + i, j));
      }
    }
  }
}

}  // namespace
}  // namespace lamina

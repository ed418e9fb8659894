// What the workload says of factors besides their error.
#include <gtest/gtest.h>

#include "bench/workloads/svd_case.hpp"
#include "distributed/partition.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

// Of three columns of this length, the second of which leans on the first by `overlap`.
double measured(float length, float overlap) {
  const Range rows = partition(512, world().size(), kRowBlock)[static_cast<size_t>(world().rank())];
  Matrix<float> part(rows.size(), 3);
  for (int64_t i = 0; i < part.rows; ++i) {
    const int64_t row = rows.begin + i;
    if (row < 3) part(i, row) = length;
    if (row == 0) part(i, 1) = overlap;
  }
  return orthogonality(part, {3.0, 2.0, 1.0}, world());
}

TEST(Orthogonality, SeesLengthsAndAngles) {
  const double limit = orthogonality_limit({512, 256});
  EXPECT_EQ(measured(1, 0), 0);
  EXPECT_NEAR(measured(1.01f, 0), 0.0201, 1e-5);
  EXPECT_NEAR(measured(1, 0.01f), 0.01, 2e-4);
  EXPECT_GT(measured(1.01f, 0), limit);
  EXPECT_GT(measured(1, 0.01f), limit);
  EXPECT_LT(measured(1.0001f, 0), limit);
}

TEST(Orthogonality, LeavesOutColumnsWithoutADirection) {
  Matrix<float> none(4, 2);
  EXPECT_EQ(orthogonality(none, {0.0, 0.0}, world()), 0);
}

}  // namespace
}  // namespace lamina

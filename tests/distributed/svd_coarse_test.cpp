// Products in bfloat16 against float64 ones of the rounded numbers.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "distributed/svd/coarse.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

double to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000);
}

TEST(Coarse, ProductsAreThoseOfRoundedNumbers) {
  if (!svd::coarse_is_fast()) GTEST_SKIP() << "this processor has no tiles for bfloat16";
  for (const int64_t rows : {1, 31, 32, 256, 300, 513}) {
    for (const int64_t cols : {1, 15, 16, 33, 272}) {
      const Matrix<float> tall = random_matrix(rows, cols, 3);
      for (const int64_t tokens : {1, 17, 32, 100}) {
        for (const bool lines_along_columns : {true, false}) {
          const Matrix<float> a =
              lines_along_columns ? random_matrix(tokens, rows, 4) : random_matrix(rows, tokens, 4);
          const svd::CoarseTall packed(tall, 2);
          std::vector<float> y(static_cast<size_t>(tokens * cols), 7.0f);
          const int64_t column_step = lines_along_columns ? 1 : tokens;
          for (int64_t first = 0; first < rows; first += svd::CoarseTall::kMostDepth) {
            packed.multiply(
                {a.data.data() + first * column_step, lines_along_columns ? rows : 1, column_step}, tokens,
                first, std::min(svd::CoarseTall::kMostDepth, rows - first), y.data(), first > 0);
          }
          double worst = 0;
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t j = 0; j < cols; ++j) {
              double sum = 0, size = 0;
              for (int64_t c = 0; c < rows; ++c) {
                const double term = to_bf16(lines_along_columns ? a(t, c) : a(c, t)) * to_bf16(tall(c, j));
                sum += term;
                size += std::abs(term);
              }
              worst = std::max(worst, std::abs(y[static_cast<size_t>(t * cols + j)] - sum) / size);
            }
          }
          EXPECT_LT(worst, static_cast<double>(rows) * 0x1p-23) << rows << " × " << cols << ", " << tokens;
        }
      }
    }
  }
}

}  // namespace
}  // namespace lamina

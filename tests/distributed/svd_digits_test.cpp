// Products by digits against float64 ones, within the error that they state.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "distributed/svd/digits.hpp"
#include "distributed/svd/transpose.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

TEST(Digits, ProductsAreWithinTheirError) {
  if (!svd::digits_are_fast()) GTEST_SKIP() << "this processor has no tiles for int8";
  for (const int64_t rows : {1, 63, 64, 300, 2049}) {
    for (const int64_t cols : {1, 16, 33, 130}) {
      Matrix<double> tall(rows, cols);
      for (int64_t j = 0; j < cols; ++j) {
        // Of about unit length, and one of zeros.
        for (int64_t i = 0; i < rows && j != 5; ++i)
          tall(i, j) = number(3, i, j) / std::sqrt(static_cast<double>(rows));
      }
      const svd::DigitTall digits(tall, 2);
      svd::DigitScratch scratch = digits.scratch();
      for (const int64_t tokens : {1, 17, 32, 100}) {
        for (const double scale : {1.0, 0x1p-100, 0x1p100}) {
          Matrix<float> lines = random_matrix(tokens, rows, 4);
          double squares = 0, most = 0;
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t c = 0; c < rows; ++c) {
              // Lines of unlike sizes, one of them zeros.
              float& each = lines(t, c);
              each = t == 7 ? 0 : static_cast<float>(each * scale * std::exp2(-(t % 5) * 3));
              squares += static_cast<double>(each) * each;
              most = std::max(most, std::abs(static_cast<double>(each)));
            }
          }
          std::vector<double> y(static_cast<size_t>(tokens * cols), 7.0);
          digits.multiply(scratch, lines.data.data(), rows, tokens, y.data());
          double off = 0;
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t j = 0; j < cols; ++j) {
              double sum = 0;
              for (int64_t c = 0; c < rows; ++c) sum += lines(t, c) * tall(c, j);
              const double each = (y[static_cast<size_t>(t * cols + j)] - sum) / scale;
              off += each * each;
            }
          }
          const double error = digits.error(std::sqrt(squares), most, tokens) / scale;
          EXPECT_LE(std::sqrt(off), error) << rows << " × " << cols << ", " << tokens << ", " << scale;
        }
      }
    }
  }
}

TEST(Transpose, TurnsAnyShape) {
  for (const int64_t rows : {1, 16, 35}) {
    for (const int64_t cols : {1, 15, 16, 50}) {
      const Matrix<float> from = random_matrix(rows, cols, 4);
      Matrix<float> to(cols, rows + 3);
      svd::transpose(from.data.data(), cols, rows, cols, to.data.data(), to.cols);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) ASSERT_EQ(to(j, i), from(i, j));
      }
    }
  }
}

}  // namespace
}  // namespace lamina

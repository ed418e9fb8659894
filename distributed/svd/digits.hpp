// Products of float32 by float64 numbers, nearly as exact as float64's, by the processor's int8 tiles:
// several times float64's rate.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/buffer.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// Whether this processor multiplies int8 so much faster than float64 that it pays (AMX).
bool digits_are_fast();

// What a thread multiplies with.
struct DigitScratch {
  std::vector<int32_t> sums;
  Buffer planes;
};

// A tall matrix T [rows × cols] in fixed point, of four digits of base 256 below each column's largest
// element, packed as the kernels read weights: 4·rows·cols bytes. What it multiplies is cut up likewise, a
// line at a time, and products of digits are summed exactly in int32 (Ozaki, Ogita, Oishi, Rump 2012,
// "Error-free transformations of matrix multiplication by using fast routines of matrix multiplication and
// its applications"; of int8: Ootomo, Ozaki, Yokota 2024), but for the three least of the sixteen. Bits do
// not depend on the machine.
class DigitTall {
 public:
  // Of finite numbers. Throws std::bad_alloc.
  DigitTall(const Matrix<double>& tall, int threads);
  // Throws std::bad_alloc, which multiply() does not.
  DigitScratch scratch() const;
  // y[t·cols + j] = Σ_c lines[t·stride + c]·T(c, j) over all c.
  void multiply(DigitScratch& scratch, const float* lines, int64_t stride, int64_t tokens, double* y) const;
  // What ‖Y‖ is off by at most (Frobenius) for a matrix of `count` lines whose largest magnitude is `most`,
  // and norm `norm`; T's columns are orthonormal.
  double error(double norm, double most, int64_t count) const;

 private:
  int64_t rows_, padded_, cols_;
  std::vector<double> power_;  // of each column, at or above its largest element; 0 for zeros
  Buffer bytes_;               // [digit, highest first][panels of 16 columns][rows in fours][16] words
};

// Whether the bound of an error, whose square is `left` of ‖A‖², stays sharp where norms are off by `lost` of
// ‖A‖: to 5·10^-7.
inline bool is_sharp(double lost, double left) {
  return 2 * lost < 1e-6 * std::sqrt(std::max(0.0, left));
}

// Bytes of one, and of each thread that multiplies by it.
int64_t digit_bytes(int64_t rows, int64_t cols, int threads);

}  // namespace lamina::svd

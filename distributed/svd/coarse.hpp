// Products in bfloat16, summed in float32, by the processor's tiles: many times float32's rate, for
// iterations that need no more than a direction.
#pragma once

#include <cstdint>

#include "kernels/buffer.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// Whether this processor multiplies bfloat16 so much faster than float32 that it pays (AMX).
bool coarse_is_fast();

// Numbers where they lie: token t, column c at from[t·token_step + c·column_step].
struct Lines {
  const float* from;
  int64_t token_step, column_step;
};

// A tall matrix T [rows × cols], rounded to bfloat16 and packed as the kernels read weights: 2·rows·cols
// bytes, rows filled up to a multiple of 32 and columns to one of 16.
class CoarseTall {
 public:
  static constexpr int64_t kMostDepth = 256;

  // Throws std::bad_alloc.
  CoarseTall(const Matrix<float>& tall, int threads);
  // y[t·cols + j] = Σ_c lines(t, c)·T(first + c, j), or added to: `tokens` by `depth` numbers of A, rounded
  // to bfloat16; first a multiple of 32, depth at most kMostDepth, and a multiple of 32 too unless T ends
  // there or is finite beyond.
  void multiply(const Lines& lines, int64_t tokens, int64_t first, int64_t depth, float* y, bool add) const {
    multiply(lines, tokens, first, depth, {0, cols_}, y, add);
  }
  // The same of some of T's columns, from a multiple of 16 on: y[t·columns.size() + j − columns.begin].
  void multiply(const Lines& lines, int64_t tokens, int64_t first, int64_t depth, Range columns, float* y,
                bool add) const;

 private:
  int64_t padded_, cols_;
  Buffer words_;  // [panels of 16 columns][pairs of rows][16] pairs
};

}  // namespace lamina::svd

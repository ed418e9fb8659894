#include "distributed/svd/transpose.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/wide.hpp"

namespace lamina::svd {
namespace {

constexpr int kSide = 16;

#if defined(__GNUC__) && !defined(__clang__)
using Words = int32_t __attribute__((vector_size(64)));

// By halves: blocks of `half` off the diagonal change places, from 8 down to 1.
LAMINA_WIDE void transpose_square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  Words lines[kSide];
  for (int i = 0; i < kSide; ++i) std::memcpy(&lines[i], from + i * stride, sizeof(Words));
#pragma GCC unroll 4
  for (int half = kSide / 2; half > 0; half /= 2) {
    Words upper, lower;
    for (int j = 0; j < kSide; ++j) {
      const bool right = (j & half) != 0;
      upper[j] = right ? kSide + j - half : j;
      lower[j] = right ? kSide + j : j + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kSide; ++i) {
      if ((i & half) != 0) continue;
      const Words first = lines[i], second = lines[i + half];
      lines[i] = __builtin_shuffle(first, second, upper);
      lines[i + half] = __builtin_shuffle(first, second, lower);
    }
  }
  for (int i = 0; i < kSide; ++i) std::memcpy(to + i * to_stride, &lines[i], sizeof(Words));
}
#else
void transpose_square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) to[j * to_stride + i] = from[i * stride + j];
  }
}
#endif

}  // namespace

void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride) {
  for (int64_t i0 = 0; i0 < rows; i0 += kSide) {
    for (int64_t j0 = 0; j0 < cols; j0 += kSide) {
      const float* square = from + i0 * stride + j0;
      float* turned = to + j0 * to_stride + i0;
      if (rows - i0 >= kSide && cols - j0 >= kSide) {
        // Lines lie far apart, where the processor does not look ahead; these may be past the matrix.
        for (int i = 0; i < kSide; ++i) __builtin_prefetch(square + (kSide + i) * stride, 0, 2);
        transpose_square(square, stride, turned, to_stride);
        continue;
      }
      for (int64_t i = 0; i < std::min<int64_t>(kSide, rows - i0); ++i) {
        for (int64_t j = 0; j < std::min<int64_t>(kSide, cols - j0); ++j)
          turned[j * to_stride + i] = square[i * stride + j];
      }
    }
  }
}

}  // namespace lamina::svd

// Matrices turned, in squares that fit the registers.
#pragma once

#include <cstdint>

namespace lamina::svd {

// to[j·to_stride + i] = from[i·stride + j], for i < rows, j < cols.
void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride);

}  // namespace lamina::svd

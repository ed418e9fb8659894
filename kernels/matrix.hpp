// Row-major matrices: an owning one for the host, and an untyped view for layers on any device.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/buffer.hpp"

namespace lamina {

// Owning, row-major [rows × cols], host memory.
template <class T>
struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  PagedVector<T> data;

  Matrix() = default;
  Matrix(int64_t rows_, int64_t cols_)
      : rows(rows_), cols(cols_), data(static_cast<size_t>(rows_) * static_cast<size_t>(cols_)) {}

  T* row(int64_t i) { return data.data() + i * cols; }
  const T* row(int64_t i) const { return data.data() + i * cols; }
  T& operator()(int64_t i, int64_t j) { return data[static_cast<size_t>(i * cols + j)]; }
  const T& operator()(int64_t i, int64_t j) const { return data[static_cast<size_t>(i * cols + j)]; }
};

// Half-open range [begin, end) of rows or columns.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

}  // namespace lamina

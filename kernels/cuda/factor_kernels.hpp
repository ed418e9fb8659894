// Kernels of the factorisations on a GPU, all of row-major matrices. Each puts one launch on the stream;
// check_launch() follows. T is float or double.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

// sums[i][j] += from[i][j] as a multiple of the grid that `shift` stands for (distributed/exact_sum.hpp).
template <class T>
void add_on_grid(const T* from, int64_t from_stride, int64_t rows, int64_t cols, double shift, double* sums,
                 int64_t stride, cudaStream_t stream);
// to[i][j] = from[i][j]·factors[j], densely; null factors are ones.
template <class T>
void widen_scaled(const T* from, int64_t rows, int64_t cols, const double* factors, double* to,
                  cudaStream_t stream);
// to[i] = float(from[i]·factor).
template <class T>
void narrow_scaled(const T* from, int64_t count, double factor, float* to, cudaStream_t stream);

// most[j] = max(most[j], |from[i][j]|); infinity for what is not finite.
template <class T>
void largest_of_columns(const T* from, int64_t rows, int64_t cols, double* most, cudaStream_t stream);
// sums[j] += from[i][j]², each as a multiple of the grid of shifts[j]: exact, and so in any order.
template <class T>
void squares_of_columns(const T* from, int64_t rows, int64_t cols, const double* shifts, double* sums,
                        cudaStream_t stream);
// sums[b] = Σ from[i][j]² of rows [b·block, (b + 1)·block), always in the same order.
void squares_of_blocks(const double* from, int64_t rows, int64_t cols, int64_t block, double* sums,
                       cudaStream_t stream);

// to[i] = from[rows − 1 − i], whole rows.
void reverse_rows(const double* from, int64_t rows, int64_t cols, double* to, cudaStream_t stream);
// to[j][i] = from[i][j], rows of `from` and `to` as far apart as their strides.
void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride,
               cudaStream_t stream);
// Rows and columns [first, first + …) of a test matrix (kernels/sketch.hpp).
void fill_sketch(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, float* to,
                 cudaStream_t stream);

}  // namespace lamina

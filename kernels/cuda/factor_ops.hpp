// What factorisations are made of on this process's GPU: cuBLAS, cuSOLVER and a few kernels. Built from
// absent/ where CUDA or cuSOLVER is not.
//
// Pointers are to the GPU's memory unless a call says otherwise; matrices are row-major, and a stride is the
// distance between rows. Calls put their work on the device's stream in order and return, but for those that
// give something to the host, which wait for it. All throw DeviceError.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.hpp"

namespace lamina::gpu {

// Why there is none of it here, and what brings it; empty when there is.
std::string factor_ops_absent();

// C[m×n] = alpha·op(A)·op(B) + beta·C. Float32 products stay float32: no TF32.
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc);
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
              const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
              int64_t ldc);
// The upper triangle of TᵀT [cols × cols], of T [rows × cols].
void gram(const double* tall, int64_t rows, int64_t cols, double* to);

// R of RᵀR = G, over G's upper triangle [size × size]. False where it fails, as it does for a G that is not
// positive definite.
bool cholesky(double* g, int64_t size);
// T·R⁻¹, in place, R in the upper triangle [cols × cols].
void divide_by_triangle(double* tall, int64_t rows, int64_t cols, const double* r);
// Eigenvalues, smallest first, of the matrix whose upper triangle is in G; its eigenvectors take G's place, a
// row each, in the same order. By cuSOLVER's divide and conquer, in kEigenMatrices matrices with G: by what
// a GPU had in use beside all else at a size of 16384.
std::vector<double> eigen(double* g, int64_t size);
inline constexpr double kEigenMatrices = 6.5;

// T's columns times the host's factors, and the rows of a matrix likewise.
void scale_columns(double* tall, int64_t rows, int64_t cols, const std::vector<double>& factors);
void scale_rows(double* matrix, int64_t rows, int64_t cols, const std::vector<double>& factors);
// y += a·x.
void add_scaled(double a, const double* x, int64_t count, double* y);
// The host's copy of a matrix's diagonal.
std::vector<double> diagonal(const double* matrix, int64_t size);

// As the kernels of factor_kernels.hpp.
void add_on_grid(const float* from, int64_t from_stride, int64_t rows, int64_t cols, double shift,
                 double* sums, int64_t stride);
void add_on_grid(const double* from, int64_t from_stride, int64_t rows, int64_t cols, double shift,
                 double* sums, int64_t stride);
void widen(const float* from, int64_t rows, int64_t cols, const double* factors, double* to);
void widen(const double* from, int64_t rows, int64_t cols, const double* factors, double* to);
void narrow(const float* from, int64_t count, double factor, float* to);
void narrow(const double* from, int64_t count, double factor, float* to);
void largest_of_columns(const float* from, int64_t rows, int64_t cols, double* most);
void largest_of_columns(const double* from, int64_t rows, int64_t cols, double* most);
void squares_of_columns(const float* from, int64_t rows, int64_t cols, const double* shifts, double* sums);
void squares_of_columns(const double* from, int64_t rows, int64_t cols, const double* shifts, double* sums);
// To the host: one for each `block` rows.
std::vector<double> squares_of_blocks(const double* from, int64_t rows, int64_t cols, int64_t block);
void reverse_rows(const double* from, int64_t rows, int64_t cols, double* to);
void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride);
// [rows × width] bytes between places of other strides, in bytes too.
void copy_rows(const void* from, int64_t stride, int64_t rows, int64_t width, void* to, int64_t to_stride);
void fill_sketch(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, float* to);

// The device's memory with these host numbers in it.
Buffer uploaded(std::span<const double> numbers);

}  // namespace lamina::gpu

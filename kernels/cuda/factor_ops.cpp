#include "kernels/cuda/factor_ops.hpp"

#include <cublas_v2.h>
#include <cusolverDn.h>
#include <fmt/format.h>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/factor_kernels.hpp"

namespace lamina::gpu {
namespace {

void check_solver(cusolverStatus_t status, const char* what) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {} by cuSOLVER: status {}", what, static_cast<int>(status)));
}

Device& device() {
  cuda_properties();  // throws where there is no GPU
  return *cuda_device();
}

cudaStream_t stream() {
  static const cudaStream_t one = cuda_stream(device().stream(1));
  return one;
}

struct Handles {
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;
  cusolverDnParams_t params = nullptr;
};

// Of the process, made at the first call and kept.
const Handles& handles() {
  static const Handles one = [] {
    Handles made;
    check_cublas(cublasCreate(&made.blas), "starting cuBLAS");
    check_cublas(cublasSetStream(made.blas, stream()), "naming cuBLAS's stream");
    check_solver(cusolverDnCreate(&made.solver), "starting");
    check_solver(cusolverDnSetStream(made.solver, stream()), "naming the stream");
    check_solver(cusolverDnCreateParams(&made.params), "starting");
    return made;
  }();
  return one;
}

cublasOperation_t op(bool transpose) {
  return transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
}

// cuSOLVER's own status of a call, which it leaves in the GPU's memory.
int solver_status(const Buffer& status) {
  int info = 0;
  device().download(&info, status.data(), sizeof info);
  return info;
}

}  // namespace

std::string factor_ops_absent() {
  const DeviceInfo& info = cuda_device_info();
  return info.available ? "" : info.reason;
}

// cuBLAS's matrices are column-major, so each is the transpose of what is meant: Cᵀ = op(B)ᵀ·op(A)ᵀ.
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a,
              int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const float one = 1, zero = 0;
  check_cublas(cublasSgemm_64(handles().blas, op(transpose_b), op(transpose_a), n, m, k, &one, b, ldb, a, lda,
                              &zero, c, ldc),
               "multiplying float32 matrices");
}

void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha,
              const double* a, int64_t lda, const double* b, int64_t ldb, double beta, double* c,
              int64_t ldc) {
  if (m == 0 || n == 0) return;
  check_cublas(cublasDgemm_64(handles().blas, op(transpose_b), op(transpose_a), n, m, k, &alpha, b, ldb, a,
                              lda, &beta, c, ldc),
               "multiplying float64 matrices");
}

void gram(const double* tall, int64_t rows, int64_t cols, double* to) {
  const double one = 1, zero = 0;
  check_cublas(cublasDsyrk_64(handles().blas, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N, cols, rows, &one, tall,
                              cols, &zero, to, cols),
               "multiplying a Gram matrix");
}

bool cholesky(double* g, int64_t size) {
  size_t on_device = 0, on_host = 0;
  check_solver(cusolverDnXpotrf_bufferSize(handles().solver, handles().params, CUBLAS_FILL_MODE_LOWER, size,
                                           CUDA_R_64F, g, size, CUDA_R_64F, &on_device, &on_host),
               "sizing a workspace");
  Buffer work = device().allocate(static_cast<int64_t>(on_device)), status = device().allocate(4);
  std::vector<std::byte> host(on_host);
  check_solver(
      cusolverDnXpotrf(handles().solver, handles().params, CUBLAS_FILL_MODE_LOWER, size, CUDA_R_64F, g, size,
                       CUDA_R_64F, work.data(), on_device, host.data(), on_host, status.as<int>()),
      "factorising by Cholesky");
  return solver_status(status) == 0;
}

void divide_by_triangle(double* tall, int64_t rows, int64_t cols, const double* r) {
  if (rows == 0) return;
  const double one = 1;
  check_cublas(cublasDtrsm_64(handles().blas, CUBLAS_SIDE_LEFT, CUBLAS_FILL_MODE_LOWER, CUBLAS_OP_N,
                              CUBLAS_DIAG_NON_UNIT, cols, rows, &one, r, cols, tall, cols),
               "solving with a triangle");
}

std::vector<double> eigen(double* g, int64_t size) {
  Buffer values = device().allocate(8 * size), status = device().allocate(4);
  size_t on_device = 0, on_host = 0;
  check_solver(cusolverDnXsyevd_bufferSize(handles().solver, handles().params, CUSOLVER_EIG_MODE_VECTOR,
                                           CUBLAS_FILL_MODE_LOWER, size, CUDA_R_64F, g, size, CUDA_R_64F,
                                           values.as<double>(), CUDA_R_64F, &on_device, &on_host),
               "sizing a workspace");
  Buffer work = device().allocate(static_cast<int64_t>(on_device));
  std::vector<std::byte> host(on_host);
  check_solver(
      cusolverDnXsyevd(handles().solver, handles().params, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                       size, CUDA_R_64F, g, size, CUDA_R_64F, values.as<double>(), CUDA_R_64F, work.data(),
                       on_device, host.data(), on_host, status.as<int>()),
      "finding eigenvectors");
  if (const int info = solver_status(status); info != 0)
    throw DeviceError(fmt::format("cuda: cuSOLVER's syevd did not converge (info {})", info));
  std::vector<double> found(static_cast<size_t>(size));
  device().download(found.data(), values.data(), values.bytes());
  return found;
}

void scale_columns(double* tall, int64_t rows, int64_t cols, const std::vector<double>& factors) {
  if (rows * cols == 0) return;
  const Buffer held = uploaded(factors);
  check_cublas(cublasDdgmm_64(handles().blas, CUBLAS_SIDE_LEFT, cols, rows, tall, cols, held.as<double>(), 1,
                              tall, cols),
               "scaling columns");
  device().synchronize();  // before what holds the factors goes
}

void scale_rows(double* matrix, int64_t rows, int64_t cols, const std::vector<double>& factors) {
  if (rows * cols == 0) return;
  const Buffer held = uploaded(factors);
  check_cublas(cublasDdgmm_64(handles().blas, CUBLAS_SIDE_RIGHT, cols, rows, matrix, cols, held.as<double>(),
                              1, matrix, cols),
               "scaling rows");
  device().synchronize();
}

void add_scaled(double a, const double* x, int64_t count, double* y) {
  check_cublas(cublasDaxpy_64(handles().blas, count, &a, x, 1, y, 1), "adding a multiple");
}

std::vector<double> diagonal(const double* matrix, int64_t size) {
  Buffer held = device().allocate(8 * size);
  check_cublas(cublasDcopy_64(handles().blas, size, matrix, size + 1, held.as<double>(), 1),
               "copying a diagonal");
  std::vector<double> values(static_cast<size_t>(size));
  device().download(values.data(), held.data(), held.bytes());
  return values;
}

void add_on_grid(const float* from, int64_t from_stride, int64_t rows, int64_t cols, double shift,
                 double* sums, int64_t stride) {
  lamina::add_on_grid(from, from_stride, rows, cols, shift, sums, stride, stream());
  check_launch("adding on a grid");
}
void add_on_grid(const double* from, int64_t from_stride, int64_t rows, int64_t cols, double shift,
                 double* sums, int64_t stride) {
  lamina::add_on_grid(from, from_stride, rows, cols, shift, sums, stride, stream());
  check_launch("adding on a grid");
}

void widen(const float* from, int64_t rows, int64_t cols, const double* factors, double* to) {
  widen_scaled(from, rows, cols, factors, to, stream());
  check_launch("widening a matrix");
}
void widen(const double* from, int64_t rows, int64_t cols, const double* factors, double* to) {
  widen_scaled(from, rows, cols, factors, to, stream());
  check_launch("scaling a matrix");
}

void narrow(const float* from, int64_t count, double factor, float* to) {
  narrow_scaled(from, count, factor, to, stream());
  check_launch("scaling a matrix");
}
void narrow(const double* from, int64_t count, double factor, float* to) {
  narrow_scaled(from, count, factor, to, stream());
  check_launch("narrowing a matrix");
}

void largest_of_columns(const float* from, int64_t rows, int64_t cols, double* most) {
  lamina::largest_of_columns(from, rows, cols, most, stream());
  check_launch("looking for columns' largest");
}
void largest_of_columns(const double* from, int64_t rows, int64_t cols, double* most) {
  lamina::largest_of_columns(from, rows, cols, most, stream());
  check_launch("looking for columns' largest");
}

void squares_of_columns(const float* from, int64_t rows, int64_t cols, const double* shifts, double* sums) {
  lamina::squares_of_columns(from, rows, cols, shifts, sums, stream());
  check_launch("adding columns' squares");
}
void squares_of_columns(const double* from, int64_t rows, int64_t cols, const double* shifts, double* sums) {
  lamina::squares_of_columns(from, rows, cols, shifts, sums, stream());
  check_launch("adding columns' squares");
}

std::vector<double> squares_of_blocks(const double* from, int64_t rows, int64_t cols, int64_t block) {
  std::vector<double> sums(static_cast<size_t>((rows + block - 1) / block));
  if (sums.empty()) return sums;
  Buffer held = device().allocate(static_cast<int64_t>(8 * sums.size()));
  lamina::squares_of_blocks(from, rows, cols, block, held.as<double>(), stream());
  check_launch("adding squares");
  device().download(sums.data(), held.data(), held.bytes());
  return sums;
}

void reverse_rows(const double* from, int64_t rows, int64_t cols, double* to) {
  lamina::reverse_rows(from, rows, cols, to, stream());
  check_launch("reversing rows");
}

void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride) {
  lamina::transpose(from, stride, rows, cols, to, to_stride, stream());
  check_launch("transposing a matrix");
}

void copy_rows(const void* from, int64_t stride, int64_t rows, int64_t width, void* to, int64_t to_stride) {
  if (rows == 0 || width == 0) return;
  check_cuda(cudaMemcpy2DAsync(to, static_cast<size_t>(to_stride), from, static_cast<size_t>(stride),
                               static_cast<size_t>(width), static_cast<size_t>(rows),
                               cudaMemcpyDeviceToDevice, stream()),
             "copying rows");
}

void fill_sketch(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, float* to) {
  lamina::fill_sketch(seed, first_row, rows, first_col, cols, to, stream());
  check_launch("drawing a test matrix");
}

Buffer uploaded(std::span<const double> numbers) {
  Buffer held = device().allocate(static_cast<int64_t>(8 * numbers.size()));
  device().upload(held.data(), numbers.data(), held.bytes());
  return held;
}

}  // namespace lamina::gpu

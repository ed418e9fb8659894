#include "kernels/cuda/gram_factors.hpp"

#include <cublas_v2.h>
#include <cusolverDn.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {
namespace {

void check_solver(cusolverStatus_t status, const char* what) {
  if (status != CUSOLVER_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {} by cuSOLVER: status {}", what, static_cast<int>(status)));
}

struct Handles {
  cublasHandle_t blas = nullptr;
  cusolverDnHandle_t solver = nullptr;
};

Handles& handles(cudaStream_t stream) {
  static Handles one = [] {
    Handles made;
    check_cublas(cublasCreate(&made.blas), "starting cuBLAS");
    check_solver(cusolverDnCreate(&made.solver), "starting");
    return made;
  }();
  check_cublas(cublasSetStream(one.blas, stream), "naming cuBLAS's stream");
  check_solver(cusolverDnSetStream(one.solver, stream), "naming the stream");
  return one;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

std::string gram_factors_absent() {
  const DeviceInfo info = cuda_device_info();
  return info.available ? "" : info.reason;
}

// What is row-major here is its own transpose in cuBLAS's order: B[cols × rows].
GramFactors gram_factors(const Matrix<float>& a,
                         const std::function<int64_t(const std::vector<double>&)>& rank_of) {
  cuda_properties();  // throws where there is no GPU
  Device& device = *cuda_device();
  const cudaStream_t stream = cuda_stream(device.stream(1));
  const Handles& on = handles(stream);
  const bool rows_fewer = a.rows <= a.cols;
  const int rows = static_cast<int>(a.rows), cols = static_cast<int>(a.cols);
  const int small = std::min(rows, cols), longer = std::max(rows, cols);
  const double one = 1, zero = 0;
  GramFactors factors;

  auto begin = std::chrono::steady_clock::now();
  Buffer b = device.allocate(8 * a.rows * a.cols);
  {
    const Buffer narrow = to_device(a.data.data(), 4 * a.rows * a.cols);
    widen_f64(narrow.as<float>(), a.rows * a.cols, b.as<double>(), stream);
    check_launch("widening a matrix");
    device.synchronize();
  }
  Buffer gram = device.allocate(8 * int64_t{small} * small), values = device.allocate(8 * int64_t{small});
  check_cublas(cublasDsyrk(on.blas, CUBLAS_FILL_MODE_LOWER, rows_fewer ? CUBLAS_OP_T : CUBLAS_OP_N, small,
                           longer, &one, b.as<double>(), cols, &zero, gram.as<double>(), small),
               "multiplying a Gram matrix");
  device.synchronize();
  factors.multiply_s = seconds_since(begin);

  begin = std::chrono::steady_clock::now();
  int work_size = 0;
  check_solver(cusolverDnDsyevd_bufferSize(on.solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, small,
                                           gram.as<double>(), small, values.as<double>(), &work_size),
               "sizing a workspace");
  {
    Buffer work = device.allocate(8 * int64_t{work_size}), status = device.allocate(4);
    check_solver(cusolverDnDsyevd(on.solver, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, small,
                                  gram.as<double>(), small, values.as<double>(), work.as<double>(), work_size,
                                  status.as<int>()),
                 "finding eigenvectors");
    int info = 0;
    device.synchronize();
    device.download(&info, status.data(), 4);
    if (info != 0) throw DeviceError(fmt::format("cuda: cuSOLVER's syevd did not converge (info {})", info));
  }
  factors.values.resize(static_cast<size_t>(small));
  device.download(factors.values.data(), values.data(), values.bytes());
  std::reverse(factors.values.begin(), factors.values.end());
  factors.solve_s = seconds_since(begin);

  begin = std::chrono::steady_clock::now();
  const auto rank = static_cast<int>(rank_of(factors.values));
  // Columns of the Gram matrix are eigenvectors now, the last one the largest's.
  const double* const last = gram.as<double>() + int64_t{small - rank} * small;
  Buffer tall = device.allocate(8 * int64_t{rank} * longer);
  check_cublas(cublasDgemm(on.blas, CUBLAS_OP_T, rows_fewer ? CUBLAS_OP_T : CUBLAS_OP_N, rank, longer, small,
                           &one, last, small, b.as<double>(), cols, &zero, tall.as<double>(), rank),
               "multiplying by eigenvectors");
  device.synchronize();
  factors.vectors = Matrix<double>(rank, small);
  factors.tall = Matrix<double>(longer, rank);
  device.download(factors.vectors.data.data(), last, 8 * int64_t{rank} * small);
  device.download(factors.tall.data.data(), tall.data(), tall.bytes());
  // Largest first.
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < longer; ++i) std::reverse(factors.tall.row(i), factors.tall.row(i) + rank);
  for (int64_t j = 0; j < rank / 2; ++j)
    std::swap_ranges(factors.vectors.row(j), factors.vectors.row(j) + small,
                     factors.vectors.row(rank - 1 - j));
  factors.multiply_s += seconds_since(begin);
  return factors;
}

}  // namespace lamina

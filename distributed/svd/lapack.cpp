// The peer: LAPACK's sgesdd on one rank with all its threads.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" void sgesdd_(const char*, const int*, const int*, float*, const int*, float*, float*, const int*,
                        float*, const int*, float*, const int*, int*, int*);

namespace lamina::svd {

int64_t sgesdd_work(Shape shape) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t longer = std::max(shape.out_features, shape.in_features);
  return 4 * small * small + 7 * small + 64 * (small + longer);
}

namespace {

SvdResult run(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  const int64_t n = input.shape.out_features, k = input.shape.in_features, small = input.small_side();
  SvdResult result;
  together(comm, [&] {
    const int work_size = blas_int(sgesdd_work(input.shape));
    const Phase phase(result.phases.eigensolve_s, comm);
    Matrix<float> a = input.local;
    // Row-major A is column-major Aᵀ: its left vectors are A's right ones.
    Matrix<float> left(small, k), right(n, small);
    std::vector<float> sigma(static_cast<size_t>(small)), work(static_cast<size_t>(work_size));
    std::vector<int> integers(static_cast<size_t>(8 * small));
    const int in = static_cast<int>(n), ik = static_cast<int>(k), is = static_cast<int>(small);
    int info = 0;
    {
      const BlasThreads blas(options.threads);
      sgesdd_("S", &ik, &in, a.data.data(), &ik, sigma.data(), left.data.data(), &ik, right.data.data(), &is,
              work.data(), &work_size, integers.data(), &info);
    }
    if (info != 0)
      throw std::runtime_error(
          fmt::format("LAPACK's sgesdd failed on a {} × {} matrix (info {})", n, k, info));
    std::vector<double> squares;
    for (const float value : sigma) squares.push_back(static_cast<double>(value) * value);
    // Backward stable: A + E = U·Σ·Vᵀ with ‖E‖ ≤ p·ε·‖A‖, where p grows slowly with the size; LAPACK's own
    // tests call more than 30 · the larger side a failure and find less than one.
    const double rounding = static_cast<double>(std::max(n, k)) * 0x1p-24;
    const int64_t r = choose_rank(
        squares, input, [&](double rho, int64_t) { return std::sqrt(std::max(0.0, rho)) + rounding; });
    double rest = 0;
    for (size_t i = static_cast<size_t>(r); i < squares.size(); ++i) rest += squares[i];
    result.optimal_error = std::sqrt(rest / input.norm_squared);
    result.error_bound = result.optimal_error + rounding;
    result.singular_values.assign(sigma.begin(), sigma.begin() + r);
    result.u = Matrix<float>(n, r);
    result.v = Matrix<float>(k, r);
    for (int64_t i = 0; i < n; ++i) std::copy_n(right.row(i), r, result.u.row(i));
    for (int64_t j = 0; j < r; ++j) {
      for (int64_t i = 0; i < k; ++i) result.v(i, j) = left(j, i);
    }
  });
  return result;
}

int64_t memory_bytes(Shape shape, Layout, int64_t rank, int, const SvdOptions&) {
  const int64_t n = shape.out_features, k = shape.in_features, small = std::min(n, k);
  return 4 * (n * k + small * (n + k) + sgesdd_work(shape) + 9 * small + rank * (n + k));
}

}  // namespace

Method lapack_method() {
  return {{"lapack", "LAPACK's sgesdd, float32, on one rank with all its threads", "", true, memory_bytes},
          run};
}

}  // namespace lamina::svd

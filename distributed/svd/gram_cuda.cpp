// gram on one rank's GPU: kernels/cuda/gram_factors.hpp finds eigenvectors and the product with them; what is
// left is as gram's.
#include <algorithm>
#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/polish.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cuda/gram_factors.hpp"

namespace lamina::svd {
namespace {

SvdResult run(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  const int64_t n = input.shape.out_features, k = input.shape.in_features, small = input.small_side();
  const bool long_is_rows = n > k;
  const InLayout in_layout(input, Layout::rows, comm, options.threads);
  SvdResult result;
  GramFactors found;
  together(comm, [&] {
    found = gram_factors(in_layout.local(), [&](const std::vector<double>& values) {
      return choose_rank(values, input, [&](double rho, int64_t r) { return gram_bound(rho, small, r); });
    });
  });
  result.phases.multiply_s = found.multiply_s;
  result.phases.eigensolve_s = found.solve_s;
  const int64_t r = found.vectors.rows;
  double rest = 0, projected = 0;
  for (size_t i = static_cast<size_t>(r); i < found.values.size(); ++i) rest += found.values[i];
  result.optimal_error = std::sqrt(std::max(0.0, rest) / input.norm_squared);
  for (int64_t i = 0; i < r; ++i)
    result.singular_values.push_back(std::sqrt(std::max(0.0, found.values[static_cast<size_t>(i)])));

  Matrix<float> longer(std::max(n, k), r), shorter(small, r);
  if (result.singular_values.back() < kPolishBelow * result.singular_values.front()) {
    const Phase phase(result.phases.orthogonalize_s, comm);
    Polished polished = polish(std::move(found.tall), std::max(n, k), comm, options.threads);
    std::copy(polished.unit.data.begin(), polished.unit.data.end(), longer.data.begin());
    Matrix<double> own(small, r);
    for (int64_t j = 0; j < r; ++j)
      for (int64_t i = 0; i < small; ++i) own(i, j) = found.vectors(j, i);
    own = times_small(own, polished.rotation, options.threads);
    std::copy(own.data.begin(), own.data.end(), shorter.data.begin());
    result.singular_values = std::move(polished.values);
    for (const double sigma : result.singular_values) projected += sigma * sigma;
  } else {
    const Phase phase(result.phases.multiply_s, comm);
#pragma omp parallel for num_threads(options.threads) schedule(static) reduction(+ : projected)
    for (int64_t i = 0; i < longer.rows; ++i)
      for (int64_t j = 0; j < r; ++j) {
        const double t = found.tall(i, j);
        projected += t * t;
        longer(i, j) = static_cast<float>(t / result.singular_values[static_cast<size_t>(j)]);
      }
    for (int64_t j = 0; j < r; ++j)
      for (int64_t i = 0; i < small; ++i) shorter(i, j) = static_cast<float>(found.vectors(j, i));
  }
  result.error_bound = gram_bound(1 - projected / input.norm_squared, small, r);
  result.solved_by = "cusolver";
  result.u = std::move(long_is_rows ? longer : shorter);
  result.v = std::move(long_is_rows ? shorter : longer);
  return result;
}

// The host's: eigenvectors and the product in float64, and the factors.
int64_t memory_bytes(Shape shape, int64_t rank, int, const SvdOptions&) {
  return 12 * rank * (shape.out_features + shape.in_features) +
         8 * std::min(shape.out_features, shape.in_features);
}

}  // namespace

Method gram_cuda_method() {
  return {{"gram-cuda", "gram on one rank's GPU, in float64: cuBLAS and cuSOLVER's syevd",
           gram_factors_absent(), true, memory_bytes},
          run};
}

}  // namespace lamina::svd

// The Gram matrix of the smaller side, its leading eigenvectors, and the other factor by a product.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/panels.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina::svd {
namespace {

// Singular values below this share of the largest are not told from rounding by the Gram matrix, whose
// eigenvalues are their squares.
constexpr double kZero = 1e-8;

Eigenpairs eigenpairs(SymmetricTiles&& gram, const ChooseRank& choose, const SvdOptions& options,
                      Communicator& comm) {
  const std::string& by = options.eigensolver;
  if (by == "scalapack") return scalapack_eigen(std::move(gram), choose, comm, options.threads);
  if (by == "elpa") return elpa_eigen(std::move(gram), choose, comm, options.threads);
  if (by != "lapack" && by != "auto")
    throw AgreedError(
        fmt::format("svd: expected an eigensolver of auto, lapack, scalapack and elpa, found \"{}\"", by));
  return lapack_eigen(std::move(gram), choose, comm, options.same_for_any_ranks ? 1 : options.threads);
}

SvdResult run(const Input& given, const SvdOptions& options, TimedCommunicator& comm) {
  const Sides sides(given);
  const int threads = options.threads;
  const Layout along = sides.long_is_rows ? Layout::rows : Layout::columns;
  const bool dealt = given.distribution.layout == Layout::block_cyclic;
  const InLayout in_layout(given, dealt ? along : given.distribution.layout, comm, threads);
  Input input{given.shape,        {.layout = dealt ? along : given.distribution.layout},
              in_layout.local(),  given.max_abs,
              given.norm_squared, given.rank,
              given.rest};
  SvdResult result;
  Eigenpairs pairs;
  {
    SymmetricTiles gram;
    {
      const Phase phase(result.phases.multiply_s, comm);
      gram = gram_tiles(input, comm, threads);
    }
    const Phase phase(result.phases.eigensolve_s, comm);
    pairs = eigenpairs(
        std::move(gram),
        [&](const std::vector<double>& values) { return choose_rank(values, input, kFactorRounding); },
        options, comm);
  }
  const int64_t r = pairs.vectors.rows;
  std::vector<double>& sigma = result.singular_values;
  double kept = 0;
  for (const double value : pairs.values) {
    const double root = std::sqrt(std::max(0.0, value));
    if (static_cast<int64_t>(sigma.size()) == r) break;
    sigma.push_back(root > kZero * (sigma.empty() ? root : sigma.front()) ? root : 0);
    kept += sigma.back() * sigma.back();
  }
  double rest = 0;
  for (size_t i = sigma.size(); i < pairs.values.size(); ++i) rest += pairs.values[i];
  result.optimal_error = std::sqrt(std::max(0.0, rest) / input.norm_squared);

  const Phase phase(result.phases.multiply_s, comm);
  const size_t own = static_cast<size_t>(comm.rank());
  const Range long_share = partition(sides.longer, comm.size(), kRowBlock)[own];
  const Range small_share = partition(sides.small, comm.size(), kRowBlock)[own];
  Matrix<float> longer, small;
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  std::vector<double> squares(static_cast<size_t>((long_share.size() + kRowBlock - 1) / kRowBlock));
  together(comm, [&] {
    longer = Matrix<float>(long_share.size(), r);
    small = Matrix<float>(small_share.size(), r);
    for (Matrix<double>& each : scratch) each = Matrix<double>(kRowBlock, r);
  });
  for (int64_t j = 0; j < r; ++j) {
    const double* from = pairs.vectors.row(j) + small_share.begin;
    const bool zero = sigma[static_cast<size_t>(j)] == 0;
    for (int64_t i = 0; i < small.rows; ++i) small(i, j) = zero ? 0 : static_cast<float>(from[i]);
  }
  for_each_panel(input, {}, comm, threads, [&](int64_t first, int64_t depth, const Matrix<double>& panel) {
    for_each_block(depth, threads, [&](int64_t begin, int64_t rows, int thread) {
      double* product = scratch[static_cast<size_t>(thread)].data.data();
      multiply(false, true, rows, r, sides.small, panel.row(begin), sides.small, pairs.vectors.data.data(),
               sides.small, product, r);
      double sum = 0;
      for (int64_t i = 0; i < rows; ++i) {
        float* out = longer.row(first + begin + i);
        for (int64_t j = 0; j < r; ++j) {
          const double s = sigma[static_cast<size_t>(j)], t = product[i * r + j];
          if (s == 0) continue;
          sum += t * t;
          out[j] = static_cast<float>(t / s);
        }
      }
      squares[static_cast<size_t>((first + begin) / kRowBlock)] = sum;
    });
  });
  const double projected = ordered_sum(squares, comm);
  result.error_bound = std::sqrt(std::max(0.0, 1 - projected / input.norm_squared)) + kFactorRounding;
  result.u = std::move(sides.long_is_rows ? longer : small);
  result.v = std::move(sides.long_is_rows ? small : longer);
  return result;
}

int64_t memory_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions&) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  return 8 * (small * small + rank * small) + panel_bytes(shape, ranks);
}

}  // namespace

Method gram_method() {
  return {{"gram", "eigenvectors of the smaller side's Gram matrix, summed exactly in float64", "", false,
           memory_bytes},
          run};
}

}  // namespace lamina::svd

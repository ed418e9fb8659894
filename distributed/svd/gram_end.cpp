#include "distributed/svd/gram_end.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/polish.hpp"
#include "distributed/svd/tall.hpp"

namespace lamina::svd {

// Error of the float32 factors, of V with r columns and T = A·V, given the share ρ = 1 − ‖T‖²/‖A‖².
// Were V's columns orthonormal and T exact, ‖A − T·Vᵀ‖² = ρ·‖A‖². In float64, with ε = 2^-52 and s the
// smaller side: the product's rounding is at most s·ε/2·‖|A|·|V|‖ ≤ s·√r·ε/2·‖A‖, so ‖T‖² is off by at most
// s·√r·ε·‖A‖²; and eigenvectors are orthonormal to about s·ε, which moves ‖T·Vᵀ‖² by at most
// s·ε·‖A‖². T and V may be turned once more, by vectors of r, which is rounded as much at the most. ‖T‖² is
// summed along rows, over the rows of a block and over the blocks: no term passes through more additions than
// r + kRowBlock + l/kRowBlock, l the longer side, each off by ε/2. Rounding to float32 adds kFactorRounding.
double gram_bound(double rho, Shape shape, int64_t r) {
  const auto small = static_cast<double>(std::min(shape.out_features, shape.in_features));
  const auto longer = static_cast<double>(std::max(shape.out_features, shape.in_features));
  const double additions = static_cast<double>(r + kRowBlock) + longer / static_cast<double>(kRowBlock);
  const double slack = (2 * small * (std::sqrt(static_cast<double>(r)) + 1) + additions) * 0x1p-52;
  return std::sqrt(std::max(0.0, rho) + slack) + kFactorRounding;
}

std::vector<double> roots(const std::vector<double>& values, int64_t r) {
  std::vector<double> sigma;
  for (int64_t i = 0; i < r; ++i) sigma.push_back(std::sqrt(std::max(0.0, values[static_cast<size_t>(i)])));
  return sigma;
}

bool needs_polish(const std::vector<double>& sigma) {
  return sigma.back() < kPolishBelow * sigma.front();
}

Matrix<float> small_times(const Matrix<double>& vectors, Range share, const Matrix<double>& w, int threads) {
  Matrix<double> own(share.size(), vectors.rows);
  for (int64_t j = 0; j < vectors.rows; ++j) {
    for (int64_t i = 0; i < own.rows; ++i) own(i, j) = vectors(j, share.begin + i);
  }
  own = times_small(own, w, threads);
  Matrix<float> result(own.rows, own.cols);
  std::copy(own.data.begin(), own.data.end(), result.data.begin());
  return result;
}

Factored polished(Matrix<double>&& tall, const Matrix<double>& vectors, int64_t longer,
                  TimedCommunicator& comm, int threads) {
  const int64_t r = vectors.rows;
  const Range share = partition(vectors.cols, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
  Factored factored;
  Polished found = polish(std::move(tall), longer, comm, threads);
  together(comm, [&] {
    factored.longer = Matrix<float>(found.unit.rows, r);
    std::copy(found.unit.data.begin(), found.unit.data.end(), factored.longer.data.begin());
    factored.small = small_times(vectors, share, found.rotation, threads);
  });
  factored.sigma = std::move(found.values);
  for (const double sigma : factored.sigma) factored.projected += sigma * sigma;
  return factored;
}

void conclude(const Input& input, bool long_is_rows, const std::vector<double>& values, Factored&& factored,
              SvdResult& result) {
  const auto r = static_cast<int64_t>(factored.sigma.size());
  if (static_cast<int64_t>(values.size()) == input.small_side()) {
    double rest = 0;
    for (size_t i = static_cast<size_t>(r); i < values.size(); ++i) rest += values[i];
    result.optimal_error = std::sqrt(std::max(0.0, rest) / input.norm_squared);
  } else {
    result.optimal_error = std::numeric_limits<double>::quiet_NaN();
  }
  // Where ‖T‖ is off by d in ‖A‖, its square is by 2d, and T by another d, squared.
  const double lost = factored.lost / std::sqrt(input.norm_squared);
  const double rho = 1 - factored.projected / input.norm_squared + lost * (2 + 2 * lost);
  result.error_bound = gram_bound(rho, input.shape, r);
  result.singular_values = std::move(factored.sigma);
  result.u = std::move(long_is_rows ? factored.longer : factored.small);
  result.v = std::move(long_is_rows ? factored.small : factored.longer);
}

}  // namespace lamina::svd

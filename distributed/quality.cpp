#include "distributed/quality.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/gather.hpp"
#include "kernels/reference.hpp"

namespace lamina {

Quality quality_of(double error, double power, double power0, double product, double max_abs) {
  Quality quality;
  quality.nmse = power0 > 0 ? error / power0 : (error > 0 ? std::numeric_limits<double>::infinity() : 0);
  quality.cosine = power > 0 && power0 > 0 ? product / std::sqrt(power * power0) : (power == power0 ? 1 : 0);
  quality.max_abs = max_abs;
  return quality;
}

Quality compare_quality(const Matrix<float>& y, const Matrix<double>& y0) {
  if (y.rows != y0.rows || y.cols != y0.cols) {
    throw std::invalid_argument(
        fmt::format("quality: expected {} × {} outputs, found {} × {}", y0.rows, y0.cols, y.rows, y.cols));
  }
  double error = 0, power = 0, power0 = 0, product = 0, max_abs = 0;
  for (size_t i = 0; i < y.data.size(); ++i) {
    const double a = y.data[i], b = y0.data[i];
    error += (a - b) * (a - b);
    power += a * a;
    power0 += b * b;
    product += a * b;
    max_abs = std::max(max_abs, std::abs(a - b));
  }
  return quality_of(error, power, power0, product, max_abs);
}

Matrix<double> original_product(const OriginalWeights& weights, const Matrix<float>& x, Communicator& comm,
                                int threads) {
  Matrix<double> local(x.rows, weights.rows.size());
  together(comm, [&] {
    if (x.cols != weights.shape.in_features) {
      throw std::invalid_argument(fmt::format("quality: expected tokens of {} features, found {}",
                                              weights.shape.in_features, x.cols));
    }
    if (weights.rows.size() == 0) return;
    Matrix<double> wide(x.rows, x.cols);
    std::copy(x.data.begin(), x.data.end(), wide.data.begin());
    local = reference_product(weights.slab, wide, threads);
  });
  return gather_features(local, gather_ranges(weights.rows, comm), weights.shape.out_features, comm);
}

}  // namespace lamina

#include "kernels/compress/awq.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/compress/integer_codes.hpp"

namespace lamina {
namespace {

// Channels quieter than this share of the mean are taken to be as loud.
constexpr double kQuiet = 1e-4;

std::vector<float> scales_of(const std::vector<double>& loudness, double power) {
  std::vector<float> scales;
  const auto [least, most] = std::minmax_element(loudness.begin(), loudness.end());
  const double middle = std::sqrt(std::pow(*least, power) * std::pow(*most, power));
  for (const double each : loudness) scales.push_back(static_cast<float>(std::pow(each, power) / middle));
  return scales;
}

}  // namespace

std::vector<float> awq_input_scales(const RowSlab& slab, const ChannelStatistics& statistics,
                                    const CodeRange& range, int64_t group, Calibrator& calibrator) {
  const int64_t rows = slab.rows.rows, cols = slab.rows.cols, block = GramRoot::kBlock;
  std::vector<double> loudness = statistics.mean_magnitude;
  double mean = 0;
  for (const double each : loudness) mean += each / static_cast<double>(cols);
  if (!(mean > 0)) return std::vector<float>(static_cast<size_t>(cols), 1.0f);
  for (double& each : loudness) each = std::max(each / mean, kQuiet);

  std::vector<std::vector<float>> candidates;
  std::vector<std::vector<double>> costs;
  for (int step = 0; step <= kAwqSteps; ++step) {
    candidates.push_back(scales_of(loudness, static_cast<double>(step) / kAwqSteps));
    costs.emplace_back();
    for (int64_t j = 0; j < cols; ++j) {
      const double scale = candidates.back()[static_cast<size_t>(j)];
      costs.back().push_back(statistics.mean_square[static_cast<size_t>(j)] / (scale * scale));
    }
  }
  Matrix<double> losses((rows + block - 1) / block, kAwqSteps + 1);
#pragma omp parallel for schedule(dynamic)
  for (int64_t first = 0; first < rows; first += block) {
    std::vector<float> scaled(static_cast<size_t>(group));
    for (int64_t i = first; i < std::min(first + block, rows); ++i) {
      for (int step = 0; step <= kAwqSteps; ++step) {
        const float* scales = candidates[static_cast<size_t>(step)].data();
        double& loss = losses(first / block, step);
        for (int64_t begin = 0; begin < cols; begin += group) {
          for (int64_t j = 0; j < group; ++j)
            scaled[static_cast<size_t>(j)] = slab.rows(i, begin + j) * scales[begin + j];
          const Grid grid = widest_grid(range, scaled.data(), group);
          if (grid.scale == 0) continue;
          loss += rounding_loss(range, scaled.data(), costs[static_cast<size_t>(step)].data() + begin, group,
                                grid);
        }
      }
    }
  }
  const std::vector<double> total = calibrator.sum(losses);
  const auto best = std::min_element(total.begin(), total.end()) - total.begin();
  return candidates[static_cast<size_t>(best)];
}

}  // namespace lamina

// The slow kernel: any leaf, one float64 sum at a time. For the check of a new format before its fast kernel
// exists.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/cpu/kernels.hpp"
#include "kernels/reference.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

class ReferenceLayer final : public Layer {
 public:
  ReferenceLayer(const Leaf& leaf, const LayerOptions& options)
      : leaf_(leaf), threads_(std::max(options.threads, 1)), x_(static_cast<size_t>(leaf.cols)) {
    check_leaf(leaf_);
    divided_.resize(leaf.input_scales.size());
    rows_.resize(static_cast<size_t>(threads_) * static_cast<size_t>(leaf.cols));
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const int threads = std::clamp(stream.threads, 1, threads_);
    for (int64_t s = 0; s < tokens; ++s) {
      load_token(x + s * leaf_.cols);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
      for (int part = 0; part < threads; ++part) {
        double* w = rows_.data() + static_cast<int64_t>(part) * leaf_.cols;
        for (int64_t i = part; i < leaf_.rows; i += threads) {
          dequantize_row(leaf_, i, w);
          double sum = 0;
          for (int64_t k = 0; k < leaf_.cols; ++k) sum += w[k] * x_[static_cast<size_t>(k)];
          y[s * leaf_.rows + i] = static_cast<float>(sum);
        }
      }
    }
  }

  Cost cost(int64_t tokens) const override {
    const auto rows = static_cast<double>(leaf_.rows), cols = static_cast<double>(leaf_.cols);
    const auto m = static_cast<double>(tokens);
    return {.operations = {Arithmetic::f32, 2 * m * rows * cols},
            .read_bytes = static_cast<double>(weight_bytes()) + 4 * m * cols,
            .write_bytes = 4 * m * rows};
  }

  int64_t weight_bytes() const override {
    return static_cast<int64_t>(leaf_.values.size() * 4 + leaf_.codes.size() + leaf_.scales.size() * 4 +
                                leaf_.zero_points.size() + leaf_.input_scales.size() * 4 + leaf_.mask.size());
  }

 private:
  // The activation rule, written out once more: this kernel is held to the reference, not built on it.
  void load_token(const float* x) {
    if (leaf_.input_scales.empty()) return round_token(x);
    for (size_t k = 0; k < divided_.size(); ++k) divided_[k] = x[k] / leaf_.input_scales[k];
    round_token(divided_.data());
    for (size_t k = 0; k < divided_.size(); ++k) x_[k] *= leaf_.input_scales[k];
  }
  void round_token(const float* x) {
    if (leaf_.activation == ActivationRule::f32) {
      std::copy(x, x + leaf_.cols, x_.begin());
      return;
    }
    if (leaf_.activation == ActivationRule::bf16) {
      std::transform(x, x + leaf_.cols, x_.begin(), bf16_activation);
      return;
    }
    float amax = 0;
    bool finite = true;
    for (int64_t k = 0; k < leaf_.cols; ++k) {
      amax = std::max(amax, std::fabs(x[k]));
      finite = finite && std::isfinite(x[k]);
    }
    if (!finite) {
      std::fill(x_.begin(), x_.end(), std::numeric_limits<double>::quiet_NaN());
      return;
    }
    if (amax < kSmallestActivation) {
      std::fill(x_.begin(), x_.end(), 0.0);
      return;
    }
    if (leaf_.activation == ActivationRule::fp8_per_token) {
      const float up = kLargestE4m3 / amax;
      const double down = amax / kLargestE4m3;
      for (int64_t k = 0; k < leaf_.cols; ++k)
        x_[static_cast<size_t>(k)] = down * static_cast<double>(float_of_e4m3(e4m3_of_float(x[k] * up)));
      return;
    }
    const float inverse = 127.0f / amax;
    const double scale = amax / 127.0f;
    for (int64_t k = 0; k < leaf_.cols; ++k)
      x_[static_cast<size_t>(k)] = scale * std::clamp(std::nearbyint(x[k] * inverse), -127.0f, 127.0f);
  }

  Leaf leaf_;
  int threads_;
  std::vector<double> x_;       // [cols]
  std::vector<double> rows_;    // [threads × cols]
  std::vector<float> divided_;  // by the input scales
};

}  // namespace

Kernel reference_kernel() {
  Kernel kernel;
  kernel.name = "reference";
  kernel.device = "cpu";
  kernel.help = "any weights, one float64 sum at a time: slow, for comparison";
  kernel.isa = "baseline";
  kernel.preference = -100;
  kernel.refuses = [](const Leaf&) { return std::string(); };
  kernel.packed_bytes = [](const Scheme::LeafBytes& leaf) { return leaf.canonical; };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<ReferenceLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

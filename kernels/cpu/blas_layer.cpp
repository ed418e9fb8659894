#include "kernels/cpu/blas_layer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/buffer.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina {
namespace {

class BlasLayer final : public Layer {
 public:
  BlasLayer(const Blas& blas, const Leaf& leaf, const LayerOptions& options)
      : blas_(blas),
        rows_(leaf.rows),
        cols_(leaf.cols),
        weights_(leaf.rows * leaf.cols * 4, options.threads) {
    check_leaf(leaf);
    if (std::max({leaf.rows, leaf.cols, options.max_tokens}) > INT_MAX)
      throw std::invalid_argument(fmt::format("BLAS: expected sizes under 2³¹, found {} × {} and {} tokens",
                                              leaf.rows, leaf.cols, options.max_tokens));
    if (!leaf.values.empty()) std::memcpy(weights_.data(), leaf.values.data(), leaf.values.size() * 4);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    // beta is 0, but some libraries multiply y by it all the same, and old contents may be NaN.
    std::memset(y, 0, static_cast<size_t>(tokens * rows_) * 4);
    if (rows_ == 0 || cols_ == 0 || tokens == 0) return;
    const int threads = std::max(stream.threads, 1);
    const BlasThreads team(threads);
    if (blas_.use_threads != nullptr) blas_.use_threads(threads);
    const int n = static_cast<int>(rows_), k = static_cast<int>(cols_), m = static_cast<int>(tokens);
    const float one = 1, zero = 0;
    const auto* w = weights_.as<float>();
    // Row-major W [N×K] is column-major Wᵀ [K×N], so Yᵀ [N×M] = (Wᵀ)ᵀ·Xᵀ.
    if (m == 1) {
      const int step = 1;
      blas_.sgemv("T", &k, &n, &one, w, &k, x, &step, &zero, y, &step);
    } else {
      blas_.sgemm("T", "N", &n, &m, &k, &one, w, &k, x, &k, &zero, y, &n);
    }
  }

  Cost cost(int64_t tokens) const override {
    const auto rows = static_cast<double>(rows_), cols = static_cast<double>(cols_),
               m = static_cast<double>(tokens);
    return {.operations = {Arithmetic::f32, 2 * m * rows * cols},
            .read_bytes = 4 * rows * cols + 4 * m * cols,
            .write_bytes = 4 * m * rows};
  }

  int64_t weight_bytes() const override { return 4 * rows_ * cols_; }

 private:
  Blas blas_;
  int64_t rows_, cols_;
  Buffer weights_;
};

}  // namespace

Kernel blas_kernel(const Blas& blas) {
  Kernel kernel;
  kernel.device = "cpu";
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (leaf.bits == 16) return "multiplies float32 weights, not bfloat16 ones";
    if (leaf.quantized()) return fmt::format("multiplies float32 weights, not {}-bit codes", leaf.bits);
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    if (leaf.activation != ActivationRule::f32) return "multiplies float32 activations only";
    if (!leaf.input_scales.empty()) return "takes no input scales";
    return {};
  };
  kernel.make = [blas](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<BlasLayer>(blas, leaf, options);
  };
  return kernel;
}

}  // namespace lamina

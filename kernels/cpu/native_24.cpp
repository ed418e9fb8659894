// Pruned 2:4, float32 or bfloat16: each kept weight has two bits that select its activation of four, so the
// loops do the kept half of the work.
#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/pack_24.hpp"

namespace lamina {
namespace {

class Layer24 final : public CpuLayer {
 public:
  Layer24(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kChunk24),
        product_(leaf.bits == 16 ? ops_.panel_24_b16 : ops_.panel_24_f32),
        weights_(leaf, leaf.bits == 16 ? 2 : 4, ops_.panel_rows, threads_),
        activations_(cols_, padded_, ops_.tokens_24, options, 4) {
    row_unit_ = ops_.panel_rows;
    weight_bytes_ = weights_.data.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 512;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    for_each_panel_tile(
        rows, ops_.panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_24,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some) {
          product_(weights_.panel(row, col), weights_.panel_bytes, count,
                   activations_.data(x, token, some, col), some, cols, y + token * rows_ + row, rows_,
                   col > 0);
        });
  }

  double macs() const override { return static_cast<double>(rows_) * static_cast<double>(cols_) / 2; }

 private:
  CpuOps::PanelFloat product_;
  Packed24 weights_;
  TiledActivations activations_;
};

}  // namespace

Kernel native_24_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned 2:4, float32 or bfloat16: two bits a kept weight select its activation";
  kernel.isa = cpu_ops().name;
  kernel.preference = 15;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (leaf.bits != 16)
      if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    return refusal_24(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Layer24>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

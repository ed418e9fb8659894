// W4A8: 4-bit weights times int8 activations, exact in integers within a group, scaled in float32 between
// groups.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/int4_pack.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int4A8Layer final : public CpuLayer {
 public:
  Int4A8Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, std::max(leaf.group, 4 * cpu_ops().words_together)),
        packed_(leaf, padded_, ops_.panel_rows, Int4Order::halves, threads_),
        activations_(cols_, padded_, ops_.tokens_i4, 4, ops_.words_together, leaf.group, 8, options),
        wide_(make_scratch(options,
                           ops_.widen_i4 == nullptr ? 0 : threads_ * 2 * ops_.panel_rows * kColumnBlock,
                           threads_)) {
    row_unit_ = ops_.panel_rows;
    weight_bytes_ = packed_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 4096;  // whole groups
  static constexpr int64_t kWidenedTokens = 24;  // from which on it pays to widen codes once

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(ops_, x, tokens, part, parts);
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t panel_rows = ops_.panel_rows;
    const bool widen = ops_.widen_i4 != nullptr && tokens >= kWidenedTokens;
    uint8_t* wide = widen ? wide_->as<uint8_t>() + part * 2 * panel_rows * kColumnBlock : nullptr;
    for_each_panel_tile(
        rows, panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_i4,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; widen && r < count; r += panel_rows)
            ops_.widen_i4(packed_.panel_codes(row + r, col), cols, wide + r * cols);
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const auto product = widen ? ops_.panel_wide_i4_i8 : ops_.panel_i4_i8;
          product(widen ? wide : packed_.panel_codes(row, col),
                  widen ? cols * panel_rows : packed_.panel_bytes, packed_.panel_scales(row, col),
                  packed_.scale_stride, packed_.group, count, activations_.words(token, some, col),
                  activations_.starts(token, some, col), some, cols, y + token * rows_ + row, rows_, col > 0,
                  next.ahead(packed_.panel_codes(next.row, next.col), packed_.panel_bytes, panel_rows / 2));
          if (col + cols < padded_) return;
          for (int64_t t = token; t < token + some; ++t)
            for (int64_t r = row; r < row + count; ++r) y[t * rows_ + r] *= activations_.scales()[t];
        },
        2, PanelOrder::columns);
  }

  Arithmetic arithmetic() const override { return Arithmetic::int4; }

 private:
  Int4Packed packed_;
  TiledCodes activations_;
  std::shared_ptr<Buffer> wide_;  // [threads × 2 × kColumnBlock × panel_rows]
};

}  // namespace

Kernel native_int4_a8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "W4A8: 4-bit weights times int8 activations, exact in int32 within a group";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) { return int4_refusal(leaf, ActivationRule::int8_per_token); };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int4A8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

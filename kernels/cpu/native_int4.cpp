// 4-bit weights, float32 activations: nibbles become float32 in registers, each group's sum takes its scale.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/int4_pack.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int4Layer final : public CpuLayer {
 public:
  Int4Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, leaf.group),
        packed_(leaf, padded_, ops_.panel_rows, Int4Order::columns, threads_),
        activations_(cols_, padded_, ops_.tokens_f32, options),
        wide_(make_scratch(options, threads_ * 2 * ops_.panel_rows * kColumnBlock * 4, threads_)) {
    activations_.tame(options);  // a group's sum, of codes that are not yet scaled, may be huge
    row_unit_ = ops_.panel_rows;
    weight_bytes_ = packed_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 1024;  // whole groups

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t panel_rows = ops_.panel_rows;
    float* wide = wide_->as<float>() + part * 2 * panel_rows * kColumnBlock;
    for_each_panel_tile(
        rows, panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; r < count; r += panel_rows)
            ops_.widen_i4_f32(packed_.panel_codes(row + r, col), packed_.panel_scales(row + r, col),
                              packed_.group, cols, wide + r * cols);
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const float* in = activations_.data(x, token, some, col);
          float* out = y + token * rows_ + row;
          if (tokens > ops_.tokens_f32.alone) {
            ops_.panel_f32(
                reinterpret_cast<const uint8_t*>(wide), cols * panel_rows * 4, count, in, some, cols, out,
                rows_, col > 0,
                next.ahead(packed_.panel_codes(next.row, next.col), packed_.panel_bytes, panel_rows / 2));
          } else {
            ops_.panel_i4_f32(packed_.panel_codes(row, col), packed_.panel_bytes,
                              packed_.panel_scales(row, col), packed_.scale_stride, packed_.group, count, in,
                              some, cols, out, rows_, col > 0);
          }
          if (col + cols == padded_) scale(y, {row, row + count}, {token, token + some});
        },
        2, order_f32(tokens, padded_));
  }

 private:
  // Takes back what tamed activations were divided by.
  void scale(float* y, Range rows, Range tokens) const {
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      const float token_scale = activations_.scales()[t];
      if (token_scale == 1) continue;
      for (int64_t r = rows.begin; r < rows.end; ++r) y[t * rows_ + r] *= token_scale;
    }
  }

  Int4Packed packed_;
  TiledActivations activations_;
  std::shared_ptr<Buffer> wide_;  // [threads × 2 × kColumnBlock × panel_rows]
};

}  // namespace

Kernel native_int4_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "4-bit weights times float32 activations (weight-only)";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) { return int4_refusal(leaf, ActivationRule::f32); };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int4Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

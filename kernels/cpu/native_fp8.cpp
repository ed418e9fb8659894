// Weights in fp8 (e4m3), float32 activations: bytes become float32 in registers, the row's scale comes last.
#include <cstring>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Fp8Layer final : public CpuLayer {
 public:
  Fp8Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, cpu_ops().e4m3_columns),
        codes_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * padded_)),
        scales_(rows_ * 4),
        activations_(cols_, padded_, ops_.tokens_f32, options),
        wide_(make_scratch(options, threads_ * 2 * ops_.panel_rows * kColumnBlock * 4, threads_)) {
    activations_.normalise(ops_.e4m3_unit, options);
    row_unit_ = ops_.panel_rows;
    const int64_t unit = ops_.panel_rows, together = ops_.e4m3_columns;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        auto* panel = codes_.as<int8_t>() + first * padded_;
        std::memset(panel, 0, static_cast<size_t>(unit * padded_));
        for (int64_t r = 0; r < std::min(unit, rows_ - first); ++r) {
          const int8_t* row = leaf.codes.data() + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; ++i)
            panel[i / together * together * unit + r * together + i % together] = row[i];
        }
      }
    });
    if (rows_ > 0 && cols_ > 0)
      std::memcpy(scales_.data(), leaf.scales.data(), static_cast<size_t>(rows_) * 4);
    weight_bytes_ = codes_.bytes() + scales_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 1024;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t panel_rows = ops_.panel_rows;
    float* wide = wide_->as<float>() + part * 2 * panel_rows * kColumnBlock;
    const auto codes = [&](int64_t row, int64_t col) {
      return codes_.as<uint8_t>() + row * padded_ + col * panel_rows;
    };
    for_each_panel_tile(
        rows, panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; r < count; r += panel_rows)
            ops_.widen_e4m3(codes(row + r, col), cols, wide + r * cols);
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const bool alone = tokens <= ops_.tokens_f32.alone;  // not widened
          const auto product = alone ? ops_.panel_e4m3 : ops_.panel_f32;
          product(alone ? codes(row, col) : reinterpret_cast<const uint8_t*>(wide),
                  panel_rows * (alone ? padded_ : cols * 4), count, activations_.data(x, token, some, col),
                  some, cols, y + token * rows_ + row, rows_, col > 0,
                  next.ahead(codes(next.row, next.col), panel_rows * padded_, panel_rows));
          if (col + cols < padded_) return;
          for (int64_t t = token; t < token + some; ++t) {
            const float scale = activations_.scales()[t];
            for (int64_t r = row; r < row + count; ++r) {
              float& out = y[t * rows_ + r];
              out = out * scales_.as<float>()[r] * scale;  // in this order: both scales may be tiny
            }
          }
        },
        2, order_f32(tokens, padded_));
  }

 private:
  Buffer codes_;   // [panels × padded / e4m3_columns × panel_rows × e4m3_columns]
  Buffer scales_;  // [rows]
  TiledActivations activations_;
  std::shared_ptr<Buffer> wide_;  // [threads × 2 × kColumnBlock × panel_rows]
};

}  // namespace

Kernel native_fp8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "fp8 (e4m3) weights times float32 activations (weight-only)";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (!leaf.fp8) return "multiplies fp8 weights, not other ones";
    if (leaf.activation != ActivationRule::f32) return "multiplies float32 activations only";
    if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Fp8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

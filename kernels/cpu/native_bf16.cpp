// Dense bfloat16 weights in panels, pairs of columns in a word; products and sums in float32, activations
// float32 or rounded to bfloat16.
#include <bit>
#include <cstring>
#include <optional>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Bf16Layer final : public CpuLayer {
 public:
  Bf16Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, by_pairs(leaf) ? 2 * cpu_ops().words_together : 2),
        weights_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * padded_ * 2)) {
    if (ops_.widen_b16 != nullptr && !by_pairs(leaf) && options.max_tokens >= kWidenedTokens)
      wide_ = make_scratch(options, threads_ * 2 * ops_.panel_rows * kWideBlock * 4, threads_);
    row_unit_ = ops_.panel_rows;
    if (by_pairs(leaf)) {
      pairs_.emplace(cols_, padded_, ops_.tokens_b16, ops_.words_together, options);
    } else {
      floats_.emplace(cols_, padded_, ops_.tokens_f32, options,
                      leaf.activation == ActivationRule::bf16 ? &ops_ : nullptr);
    }
    const int64_t unit = ops_.panel_rows;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        uint16_t* panel = weights_.as<uint16_t>() + first * padded_;
        std::memset(panel, 0, static_cast<size_t>(unit * padded_ * 2));
        for (int64_t r = 0; r < std::min(unit, rows_ - first); ++r) {
          const float* row = leaf.values.data() + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; ++i)
            panel[i / 2 * unit * 2 + r * 2 + i % 2] =
                static_cast<uint16_t>(std::bit_cast<uint32_t>(row[i]) >> 16);
        }
      }
    });
    weight_bytes_ = weights_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 2048, kWideBlock = 1024;
  static constexpr int64_t kWidenedTokens = 12;  // from which on it pays to widen weights once

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    if (pairs_) {
      pairs_->prepare(ops_, x, tokens, part, parts);
    } else {
      floats_->prepare(x, tokens, part, parts);
    }
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t panel_rows = ops_.panel_rows;
    const bool widen = wide_ != nullptr && tokens >= kWidenedTokens;
    float* wide = widen ? wide_->as<float>() + part * 2 * panel_rows * kWideBlock : nullptr;
    for_each_panel_tile(
        rows, panel_rows, padded_, widen ? kWideBlock : kColumnBlock, tokens,
        pairs_ ? ops_.tokens_b16 : ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; widen && r < count; r += panel_rows)
            ops_.widen_b16(panel(row + r, col), cols, wide + r * cols);
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const int64_t panel_bytes = padded_ * panel_rows * 2;
          float* out = y + token * rows_ + row;
          if (pairs_) {
            ops_.panel_b16_b16(panel(row, col), panel_bytes, count, pairs_->words(token, some, col), some,
                               cols, out, rows_, col > 0);
          } else {
            const auto product = widen ? ops_.panel_f32 : ops_.panel_b16;
            product(widen ? reinterpret_cast<const uint8_t*>(wide) : panel(row, col),
                    widen ? panel_rows * cols * 4 : panel_bytes, count, floats_->data(x, token, some, col),
                    some, cols, out, rows_, col > 0,
                    next.ahead(panel(next.row, next.col), panel_bytes, panel_rows * 2));
          }
        },
        2,
        pairs_  ? PanelOrder::columns
        : widen ? order_f32(tokens, padded_)
                : PanelOrder::rows);
  }

  Arithmetic arithmetic() const override { return pairs_ ? Arithmetic::bf16 : Arithmetic::f32; }

 private:
  // Whether an instruction multiplies them; else activations are rounded and multiplied as float32.
  static bool by_pairs(const Leaf& leaf) {
    return leaf.activation == ActivationRule::bf16 && cpu_ops().panel_b16_b16 != nullptr;
  }
  // Of the panel that begins with `row`, from column `col` on (a pair's first).
  const uint8_t* panel(int64_t row, int64_t col) const {
    return weights_.as<uint8_t>() + (row * padded_ + col * ops_.panel_rows) * 2;
  }

  Buffer weights_;                          // [panels × padded / 2 × panel_rows × 2]
  std::optional<TiledPairs> pairs_;         // one
  std::optional<TiledActivations> floats_;  // of these
  std::shared_ptr<Buffer> wide_;            // [threads × 2 × kWideBlock × panel_rows], or none
};

}  // namespace

Kernel native_bf16_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "dense bfloat16 weights times float32 or bfloat16 activations";
  kernel.isa = cpu_ops().name;
  kernel.preference = kernel.isa == "portable" ? 5 : 20;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (leaf.bits != 16) return "multiplies bfloat16 weights, not other ones";
    if (leaf.activation == ActivationRule::int8_per_token)
      return "multiplies float32 or bfloat16 activations";
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Bf16Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// W8A8: int8 weights times int8 activations, exact in int32; the scales of row and token come last.
#include <cstring>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

constexpr int64_t kExactColumns = 131072;  // of ±127·±127

class Int8Layer final : public CpuLayer {
 public:
  Int8Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, cpu_ops().i8_columns * cpu_ops().words_together),
        codes_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * padded_)),
        scales_(rows_ * 4),
        activations_(cols_, padded_, ops_.tokens_i8, ops_.i8_columns, ops_.words_together, padded_,
                     ops_.i8_bias, options),
        wide_(make_scratch(options, threads_ * 2 * ops_.panel_rows * kColumnBlock * ops_.wide_i8_bytes,
                           threads_)) {
    row_unit_ = ops_.panel_rows;
    const int64_t unit = ops_.panel_rows, together = ops_.i8_columns;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        auto* panel = codes_.as<uint8_t>() + first * padded_;
        std::memset(panel, 0, static_cast<size_t>(unit * padded_));
        const int64_t some = std::min(unit, rows_ - first);
        for (int64_t r = 0; r < some; ++r) {
          const int8_t* row = leaf.codes.data() + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; i += together) {
            uint8_t* to = panel + i * unit + r * together;
            for (int64_t j = 0; j < std::min(together, cols_ - i); ++j)
              to[j] = static_cast<uint8_t>(row[i + j] + ops_.i8_bias);
          }
        }
      }
    });
    if (!leaf.scales.empty()) std::memcpy(scales_.data(), leaf.scales.data(), static_cast<size_t>(rows_) * 4);
    weight_bytes_ = codes_.bytes() + scales_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 4096;  // of bytes; fewer that are wider
  static constexpr int64_t kWidenedTokens = 48;  // from which on it pays to widen codes once

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(ops_, x, tokens, part, parts);
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    const int64_t panel_rows = ops_.panel_rows, bytes = ops_.wide_i8_bytes;
    auto* wide = wide_->as<uint8_t>() + part * 2 * panel_rows * kColumnBlock * bytes;
    const bool widen = bytes > 0 && tokens >= kWidenedTokens;
    const auto codes = [&](int64_t row, int64_t col) {
      return codes_.as<uint8_t>() + row * padded_ + col * panel_rows;
    };
    // Until all columns are through, y holds exact sums.
    auto* sums = reinterpret_cast<int32_t*>(y);
    for_each_panel_tile(
        rows, panel_rows, padded_, widen ? kColumnBlock / bytes : kColumnBlock, tokens, ops_.tokens_i8,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; widen && r < count; r += panel_rows)
            ops_.widen_i8(codes(row + r, col), cols, wide + r * cols * bytes);
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const bool first = col == 0;
          const auto product = widen ? ops_.panel_wide_i8 : ops_.panel_i8;
          product(widen ? wide : codes(row, col), panel_rows * (widen ? cols * bytes : padded_), count,
                  activations_.words(token, some, col),
                  first && ops_.i8_bias != 0 ? activations_.starts(token, some, 0) : nullptr, some, cols,
                  sums + token * rows_ + row, rows_, !first,
                  next.ahead(codes(next.row, next.col), panel_rows * padded_, panel_rows));
          if (col + cols == padded_) scale(y, {row, row + count}, {token, token + some});
        },
        2, PanelOrder::columns);
  }

  Arithmetic arithmetic() const override { return Arithmetic::int8; }

 private:
  // Makes numbers of exact sums, while they are in the cache.
  void scale(float* y, Range rows, Range tokens) const {
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      const float token_scale = activations_.scales()[t];
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        int32_t sum;
        std::memcpy(&sum, y + t * rows_ + r, 4);
        y[t * rows_ + r] = static_cast<float>(sum) * scales_.as<float>()[r] * token_scale;
      }
    }
  }

  Buffer codes_;   // [panels × padded / i8_columns × panel_rows × i8_columns], i8_bias too large
  Buffer scales_;  // [rows]
  TiledCodes activations_;
  std::shared_ptr<Buffer> wide_;  // [threads × 2 × kColumnBlock × panel_rows × wide_i8_bytes]
};

}  // namespace

Kernel native_int8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "W8A8: int8 weights times int8 activations, exact in int32";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 8, ActivationRule::int8_per_token); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
    if (leaf.cols > kExactColumns) return "takes at most 131072 columns, whose sum is exact in int32";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

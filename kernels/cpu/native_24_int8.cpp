// Pruned 2:4, int8 weights times int8 activations, exact in int32; the scales of row and token come last.
#include <fmt/format.h>

#include <cstring>

#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/pack_24.hpp"

namespace lamina {
namespace {

constexpr int64_t kExactColumns = 262144;  // of which half are kept, ±127·±127

// A token's codes as the selection wants them, in tiles of up to `most` tokens: 8 columns, and the same
// negated.
class SignedCodes {
 public:
  SignedCodes(int64_t cols, int64_t padded, int64_t most, const LayerOptions& options)
      : cols_(cols), padded_(padded), most_(most) {
    const int64_t tokens = std::max<int64_t>(options.max_tokens, 1), threads = std::max(options.threads, 1);
    codes_ = make_scratch(options, tokens * 2 * padded);
    scales_ = make_scratch(options, tokens * 4);
    row_ = make_scratch(options, threads * round_up(padded, 64));
  }

  void prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts) {
    // Whole tiles where there are enough: threads would write the same lines otherwise.
    const int64_t tile = tile_tokens(tokens, most_), unit = tokens >= tile * parts ? tile : 1;
    // Zeros past the columns, and they stay.
    auto* row = row_->as<int8_t>() + part * round_up(padded_, 64);
    for (int64_t first = part * unit; first < tokens; first += parts * unit) {
      for (int64_t token = first; token < std::min(first + unit, tokens); ++token) {
        ops.quantize(x + token * cols_, cols_, row, scales_->as<float>() + token);
        const int64_t begin = token / tile * tile, some = std::min(tile, tokens - begin);
        int8_t* to = codes_->as<int8_t>() + 2 * (begin * padded_ + 8 * (token - begin));
        for (int64_t i = 0; i < padded_; i += 8, to += 16 * some) {
          for (int64_t j = 0; j < 8; ++j) {
            to[j] = row[i + j];
            to[8 + j] = static_cast<int8_t>(-row[i + j]);
          }
        }
      }
    }
  }
  // Of the tile that begins with `token`, from column `col` on.
  const int8_t* data(int64_t token, int64_t tokens, int64_t col) const {
    return codes_->as<int8_t>() + 2 * (token * padded_ + col * tokens);
  }
  float scale(int64_t token) const { return scales_->as<float>()[token]; }

 private:
  int64_t cols_, padded_, most_;
  std::shared_ptr<Buffer> codes_, scales_;
  std::shared_ptr<Buffer> row_;  // a thread's row of codes
};

class Int8Layer24 final : public CpuLayer {
 public:
  Int8Layer24(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kChunk24),
        weights_(leaf, 1, ops_.panel_rows, threads_),
        scales_(rows_ * 4),
        activations_(cols_, padded_, ops_.tokens_24_i8, options),
        wide_bytes_(ops_.panel_rows * ops_.wide_24_i8_bytes),
        wide_(make_scratch(options, threads_ * kPanels * kColumnBlock / kChunk24 * wide_bytes_, threads_)) {
    row_unit_ = ops_.panel_rows;
    if (!leaf.scales.empty()) std::memcpy(scales_.data(), leaf.scales.data(), leaf.scales.size() * 4);
    weight_bytes_ = weights_.data.bytes() + scales_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 1024, kPanels = 8;
  static constexpr int64_t kWidenedTokens = 32;  // from which on it pays to find what a weight selects once

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(ops_, x, tokens, part, parts);
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    // Until all columns are through, y holds exact sums.
    auto* sums = reinterpret_cast<int32_t*>(y);
    const bool widen = tokens >= kWidenedTokens;
    auto* wide = wide_->as<uint8_t>() + part * kPanels * kColumnBlock / kChunk24 * wide_bytes_;
    for_each_panel_tile(
        rows, ops_.panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_24_i8,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols) {
          for (int64_t r = 0; widen && r < count; r += ops_.panel_rows)
            ops_.widen_24_i8(weights_.panel(row + r, col), cols,
                             wide + r / ops_.panel_rows * (cols / kChunk24 * wide_bytes_));
        },
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const auto product = widen ? ops_.panel_wide_24_i8 : ops_.panel_24_i8;
          product(widen ? wide : weights_.panel(row, col),
                  widen ? cols / kChunk24 * wide_bytes_ : weights_.panel_bytes, count,
                  activations_.data(token, some, col), some, cols, sums + token * rows_ + row, rows_, col > 0,
                  next.ahead(weights_.panel(next.row, next.col), weights_.panel_bytes,
                             weights_.chunk_bytes / kChunk24));
        },
        kPanels);
    for (int64_t t = 0; t < tokens; ++t) {
      const float scale = activations_.scale(t);
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        int32_t sum;
        std::memcpy(&sum, y + t * rows_ + r, 4);
        y[t * rows_ + r] = static_cast<float>(sum) * scales_.as<float>()[r] * scale;
      }
    }
  }

  double macs() const override { return static_cast<double>(rows_) * static_cast<double>(cols_) / 2; }
  Arithmetic arithmetic() const override { return Arithmetic::int8_24; }

 private:
  Packed24 weights_;
  Buffer scales_;  // [rows]
  SignedCodes activations_;
  int64_t wide_bytes_;            // of a panel's chunk
  std::shared_ptr<Buffer> wide_;  // [threads × kPanels × kColumnBlock / kChunk24 × wide_bytes]
};

}  // namespace

Kernel native_24_int8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned 2:4, W8A8: two bits a kept int8 weight select its int8 activation, exact in int32";
  kernel.isa = cpu_ops().name;
  kernel.preference = 15;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 8, ActivationRule::int8_per_token); !why.empty()) return why;
    if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
    if (leaf.cols > kExactColumns)
      return fmt::format("takes at most {} columns, whose sum is exact in int32", kExactColumns);
    return refusal_24(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int8Layer24>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

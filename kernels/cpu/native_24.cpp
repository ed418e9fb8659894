// Pruned 2:4, float32 or bfloat16: each kept weight has two bits that say which activation of four it meets,
// so the loops do the kept half of the work. Few tokens have rows as lanes, which select activations; many
// are lanes themselves.
#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/pack_24.hpp"

namespace lamina {
namespace {

// Two layouts: tiles of few tokens, 4 columns of a token together, or tiles of vectors of tokens.
class Activations24 {
 public:
  Activations24(int64_t cols, int64_t padded, const CpuOps& ops, const LayerOptions& options)
      : cols_(cols),
        padded_(padded),
        lanes_(ops.panel_rows),
        most_tokens_(ops.tokens_24),
        least_vectors_(ops.least_vectors_24),
        most_vectors_(ops.vectors_24),
        data_(
            make_scratch(options, round_up(std::max<int64_t>(options.max_tokens, 1), lanes_) * padded * 4)) {}

  bool in_vectors(int64_t tokens) const { return tokens >= least_vectors_ * lanes_; }
  // Tokens of a tile; only the last one has fewer.
  int64_t tile(int64_t tokens) const {
    return in_vectors(tokens) ? tile_tokens(round_up(tokens, lanes_) / lanes_, most_vectors_) * lanes_
                              : tile_tokens(tokens, most_tokens_);
  }
  int64_t most_lanes() const { return most_vectors_ * lanes_; }
  // What a tile of so many tokens is padded to.
  int64_t width(int64_t tokens, bool vectors) const { return vectors ? round_up(tokens, lanes_) : tokens; }

  void prepare(const float* x, int64_t tokens, int part, int parts) {
    if (as_they_are(tokens)) return;
    const int64_t begin = padded_ / kChunk24 * part / parts * kChunk24;
    const int64_t end = padded_ / kChunk24 * (part + 1) / parts * kChunk24;
    const bool vectors = in_vectors(tokens);
    for (int64_t token = 0; token < tokens; token += tile(tokens)) {
      const int64_t some = std::min(tile(tokens), tokens - token), wide = width(some, vectors);
      const int64_t token_step = vectors ? 1 : 4, col_step = vectors ? wide : 1;
      for (int64_t col = begin; col < end; col += kChunk24) {
        const int64_t there = std::clamp<int64_t>(cols_ - col, 0, kChunk24);
        for (int64_t t = 0; t < wide; ++t) {
          const float* from = x + (token + t) * cols_ + col;
          float* to = data_->as<float>() + token * padded_ + col * wide + t * token_step;
          for (int64_t i = 0; i < kChunk24; ++i)
            to[i / 4 * 4 * wide + i % 4 * col_step] = t < some && i < there ? from[i] : 0.0f;
        }
      }
    }
  }
  // Of the tile of `tokens` that begins with `token`, from column `col` on; `all` tokens in this forward.
  const float* data(const float* x, int64_t token, int64_t tokens, int64_t col, int64_t all) const {
    if (as_they_are(all)) return x + col;
    return data_->as<float>() + token * padded_ + col * width(tokens, in_vectors(all));
  }

 private:
  bool as_they_are(int64_t tokens) const { return tokens == 1 && cols_ == padded_ && !in_vectors(1); }

  int64_t cols_, padded_, lanes_, most_tokens_, least_vectors_, most_vectors_;
  std::shared_ptr<Buffer> data_;
};

class Layer24 final : public CpuLayer {
 public:
  Layer24(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kChunk24),
        few_(leaf.bits == 16 ? ops_.panel_24_b16 : ops_.panel_24_f32),
        many_(leaf.bits == 16 ? ops_.rows_24_b16 : ops_.rows_24_f32),
        weights_(leaf, leaf.bits == 16 ? 2 : 4, ops_.panel_rows, threads_),
        activations_(cols_, padded_, ops_, options),
        sums_floats_(kRowBlock * (activations_.in_vectors(max_tokens_) ? activations_.most_lanes() : 0)),
        sums_(make_scratch(options, threads_ * sums_floats_ * 4, threads_)) {
    row_unit_ = ops_.panel_rows;
    weight_bytes_ = weights_.data.bytes();
  }

 protected:
  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    if (activations_.in_vectors(tokens)) return compute_many(x, y, tokens, rows, part);
    for_each_panel_tile(
        rows, ops_.panel_rows, padded_, kFewColumns, tokens, ops_.tokens_24, kOpenNothing,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          few_(weights_.panel(row, col), weights_.panel_bytes, count,
               activations_.data(x, token, some, col, tokens), some, cols, y + token * rows_ + row, rows_,
               col > 0,
               next.ahead(weights_.panel(next.row, next.col), weights_.panel_bytes,
                          weights_.chunk_bytes / kChunk24));
        },
        kFewPanels);
  }

  double macs() const override { return static_cast<double>(rows_) * static_cast<double>(cols_) / 2; }

 private:
  static constexpr int64_t kFewColumns = 512, kFewPanels = 8;
  // A block of columns of a tile's activations stays in the first-level cache while the rows of a block pass,
  // whose sums stay in the second.
  static constexpr int64_t kManyColumns = 64, kRowBlock = 256;

  void compute_many(const float* x, float* y, int64_t tokens, Range rows, int part) {
    float* sums = sums_->as<float>() + part * sums_floats_;
    const int64_t tile = activations_.tile(tokens);
    for (int64_t row = rows.begin; row < rows.end; row += kRowBlock) {
      const int64_t count = std::min(kRowBlock, rows.end - row);
      for (int64_t token = 0; token < tokens; token += tile) {
        const int64_t some = std::min(tile, tokens - token), lanes = activations_.width(some, true);
        for (int64_t col = 0; col < padded_; col += kManyColumns)
          many_(weights_.panel(row, col), weights_.panel_bytes, count,
                activations_.data(x, token, some, col, tokens), lanes / ops_.panel_rows,
                std::min(kManyColumns, padded_ - col), sums, col > 0);
        for (int64_t t = 0; t < some; ++t)
          for (int64_t r = 0; r < count; ++r) y[(token + t) * rows_ + row + r] = sums[r * lanes + t];
      }
    }
  }

  CpuOps::PanelFloat few_;
  CpuOps::Rows24 many_;
  Packed24 weights_;
  Activations24 activations_;
  int64_t sums_floats_;           // of a thread
  std::shared_ptr<Buffer> sums_;  // [threads × kRowBlock × lanes of a tile]
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
    if (leaf.bits == 16) {
      if (leaf.activation != ActivationRule::f32) return "multiplies float32 activations only";
    } else if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) {
      return why;
    }
    return refusal_24(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Layer24>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

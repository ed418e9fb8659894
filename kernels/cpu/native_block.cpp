// Pruned in blocks: only kept blocks are stored and multiplied.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

// Each block row's kept blocks, by their first columns.
class KeptBlocks {
 public:
  KeptBlocks(const Leaf& leaf, int threads)
      : rows_(leaf.rows), height_(leaf.pattern.block_rows), width_(leaf.pattern.block_cols) {
    const int64_t count = (rows_ + height_ - 1) / height_, across = (leaf.cols + width_ - 1) / width_;
    std::vector<uint8_t> kept(static_cast<size_t>(count * across));
    pack_rows(rows_, height_, threads, [&](Range rows) {
      for (int64_t row = rows.begin; row < rows.end; row += height_)
        for (int64_t c = 0; c < across; ++c)
          kept[static_cast<size_t>(row / height_ * across + c)] =
              any_kept(leaf, {row, std::min(row + height_, rows_)},
                       {c * width_, std::min((c + 1) * width_, leaf.cols)});
    });
    columns_.reserve(static_cast<size_t>(std::count(kept.begin(), kept.end(), 1)));
    starts_.push_back(0);
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t c = 0; c < across; ++c) {
        if (kept[static_cast<size_t>(b * across + c)] == 0) continue;
        macs_ += static_cast<double>(rows_of(b) * std::min(width_, leaf.cols - c * width_));
        columns_.push_back(static_cast<int32_t>(c * width_));
      }
      starts_.push_back(static_cast<int64_t>(columns_.size()));
    }
  }

  int64_t block_rows() const { return static_cast<int64_t>(starts_.size()) - 1; }
  // Of block row b.
  int64_t rows_of(int64_t b) const { return std::min(height_, rows_ - b * height_); }
  int64_t count(int64_t b) const { return starts_[b + 1] - starts_[b]; }
  const int32_t* columns(int64_t b) const { return columns_.data() + starts_[b]; }

  double macs() const { return macs_; }
  int64_t bytes() const { return static_cast<int64_t>(columns_.size() * 4 + starts_.size() * 8); }

 private:
  static bool any_kept(const Leaf& leaf, Range rows, Range cols) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      for (int64_t j = cols.begin; j < cols.end; ++j) {
        const auto at = static_cast<size_t>(i * leaf.cols + j);
        if (leaf.mask.empty() ? leaf.values[at] != 0 : leaf.mask[at] != 0) return true;
      }
    }
    return false;
  }

  int64_t rows_, height_, width_;
  std::vector<int32_t> columns_;  // first column of each kept block, block row by block row
  std::vector<int64_t> starts_;   // [block rows + 1], into columns_
  double macs_ = 0;
};

// Blocks of whole panels: a block row falls into strips of one or two panels, whose kept blocks follow one
// another; a tile of a strip by a few tokens stays in registers from block to block.
class StripLayer final : public CpuLayer {
 public:
  StripLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, leaf.pattern.block_cols),
        kept_(leaf, threads_),
        block_rows_(leaf.pattern.block_rows),
        block_cols_(leaf.pattern.block_cols),
        strip_rows_(std::min(block_rows_, 2 * ops_.panel_rows)),
        activations_(cols_, padded_, {ops_.tokens_f32.most, ops_.tokens_f32.most}, options) {
    row_unit_ = block_rows_;
    starts_.push_back(0);
    for (int64_t row = 0; row < rows_; row += strip_rows_)
      starts_.push_back(starts_.back() + kept_.count(row / block_rows_) * block_cols_ * strip_rows_);
    values_ = Buffer::untouched(starts_.back() * 4);
    pack_rows(rows_, row_unit_, threads_, [&](Range rows) {
      for (int64_t row = rows.begin; row < rows.end; row += strip_rows_) pack_strip(leaf, row);
    });
    weight_bytes_ = values_.bytes() + kept_.bytes() + static_cast<int64_t>(starts_.size() * 8);
  }

 protected:
  // Where tokens come in several tiles, columns and tokens go in blocks: kChunkColumns kept columns of a
  // strip stay in the first-level cache while the tiles pass, and what kBlockTokens have of those columns in
  // the second.
  static constexpr int64_t kChunkColumns = 512;
  static constexpr int64_t kBlockTokens = 96;
  static constexpr int64_t kFetchBytes = 1024;  // ahead of a single tile's stream

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int) override {
    if (tokens == 1) return compute_one(activations_.data(x, 0, 1, 0), y, rows);
    const int64_t tile = tile_tokens(tokens, ops_.tokens_f32.most);
    int64_t most = 1;  // blocks that a block row keeps
    for (int64_t row = rows.begin; row < rows.end; row += block_rows_)
      most = std::max(most, kept_.count(row / block_rows_));
    const int64_t chunk = tile == tokens ? most : std::max<int64_t>(kChunkColumns / block_cols_, 1);
    const int64_t token_block = round_up(tile_tokens(tokens, kBlockTokens), tile);
    for (int64_t token = 0; token < tokens; token += token_block) {
      const Range block = {token, std::min(token + token_block, tokens)};
      for (int64_t first = 0; first < most; first += chunk)
        for (int64_t row = rows.begin; row < rows.end; row += strip_rows_)
          multiply(x, y, block, tile, row, first, chunk, row + strip_rows_ < rows.end);
    }
  }

  double macs() const override { return kept_.macs(); }

 private:
  // Each strip goes with some that lie far apart: as many long streams.
  void compute_one(const float* x, float* y, Range rows) {
    const int64_t count = (rows.size() + strip_rows_ - 1) / strip_rows_, apart = count / kStripsTogether;
    Strip strips[kStripsTogether];
    const auto describe = [&](int64_t index) -> Strip {
      const int64_t row = rows.begin + index * strip_rows_, b = row / block_rows_;
      return {strip(row), kept_.columns(b), kept_.count(b), std::min(strip_rows_, rows_ - row), y + row};
    };
    for (int64_t i = 0; i < apart; ++i) {
      for (int64_t s = 0; s < kStripsTogether; ++s) strips[s] = describe(s * apart + i);
      ops_.strips_f32(strips, kStripsTogether, strip_rows_, block_cols_, x);
    }
    for (int64_t i = kStripsTogether * apart; i < count; ++i) {
      strips[0] = describe(i);
      ops_.strips_f32(strips, 1, strip_rows_, block_cols_, x);
    }
  }

  // Up to `chunk` kept blocks, from block `first` on, of one strip by `tokens` in tiles. One tile streams
  // through the weights; several share the fetching of the next strip's blocks.
  void multiply(const float* x, float* y, Range tokens, int64_t tile, int64_t row, int64_t first,
                int64_t chunk, bool more) {
    const int64_t b = row / block_rows_, count = std::min(chunk, kept_.count(b) - first);
    if (count <= 0 && first > 0) return;
    const int64_t column_bytes = strip_rows_ * 4, offset = first * block_cols_ * strip_rows_;
    const int64_t tiles = (tokens.size() + tile - 1) / tile, step = column_bytes / tiles;
    const float* w = strip(row) + offset;
    const char* fetch = reinterpret_cast<const char*>(more ? strip(row + strip_rows_) + offset : w);
    if (tiles == 1 && count > 0) fetch = reinterpret_cast<const char*>(w) + kFetchBytes;
    for (int64_t token = tokens.begin; token < tokens.end; token += tile) {
      const int64_t some = std::min(tile, tokens.end - token);
      ops_.block_f32(w, strip_rows_, std::min(strip_rows_, rows_ - row), kept_.columns(b) + first, count,
                     block_cols_, activations_.data(x, token, some, 0), some, y + token * rows_ + row, rows_,
                     first > 0, fetch, step);
      fetch += count * block_cols_ * step;
    }
  }

  float* strip(int64_t row) { return values_.as<float>() + starts_[static_cast<size_t>(row / strip_rows_)]; }

  void pack_strip(const Leaf& leaf, int64_t row) {
    const int64_t b = row / block_rows_, rows = std::min(strip_rows_, rows_ - row);
    float* to = strip(row);
    for (int64_t c = 0; c < kept_.count(b); ++c) {
      for (int64_t col = kept_.columns(b)[c]; col < kept_.columns(b)[c] + block_cols_;
           ++col, to += strip_rows_)
        for (int64_t r = 0; r < strip_rows_; ++r)
          to[r] = r < rows && col < cols_ ? leaf.values[static_cast<size_t>((row + r) * cols_ + col)] : 0.0f;
    }
  }

  KeptBlocks kept_;
  int64_t block_rows_, block_cols_, strip_rows_;
  std::vector<int64_t> starts_;  // [strips + 1], into values_
  Buffer values_;                // [strip][kept block][column][row of the strip]
  TiledActivations activations_;
};

// Blocks of other heights: those of a block row stand side by side as one short dense matrix, row after row,
// and the activations they meet are gathered to match.
class GatherLayer final : public CpuLayer {
 public:
  GatherLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        kept_(leaf, threads_),
        block_rows_(leaf.pattern.block_rows),
        block_cols_(leaf.pattern.block_cols) {
    row_unit_ = block_rows_;
    starts_.push_back(0);
    for (int64_t b = 0; b < kept_.block_rows(); ++b) {
      starts_.push_back(starts_.back() + kept_.rows_of(b) * width(b));
      widest_ = std::max(widest_, width(b));
    }
    values_ = Buffer::untouched(starts_.back() * 4);
    pack_rows(rows_, row_unit_, threads_, [&](Range rows) {
      for (int64_t row = rows.begin; row < rows.end; ++row) pack_row(leaf, row);
    });
    gathered_ = make_scratch(options, threads_ * kTokens * widest_ * 4, threads_);
    weight_bytes_ = values_.bytes() + kept_.bytes() + static_cast<int64_t>(starts_.size() * 8);
  }

 protected:
  static constexpr int64_t kWidthUnit = 32;  // what the dense loops ask for
  static constexpr int64_t kTokens = 16;     // gathered together

  void prepare(const float*, int64_t, int, int) override {}

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    float* gathered = gathered_->as<float>() + part * kTokens * widest_;
    for (int64_t b = rows.begin / block_rows_; b * block_rows_ < rows.end; ++b) {
      for (int64_t token = 0; token < tokens; token += kTokens) {
        const int64_t some = std::min(kTokens, tokens - token);
        for (int64_t t = 0; t < some; ++t) gather(b, x + (token + t) * cols_, gathered + t * width(b));
        ops_.dot_f32(values_.as<float>() + starts_[static_cast<size_t>(b)], width(b), kept_.rows_of(b),
                     gathered, width(b), some, width(b), y + token * rows_ + b * block_rows_, rows_, false);
      }
    }
  }

  double macs() const override { return kept_.macs(); }

 private:
  // Padded columns of the short matrix.
  int64_t width(int64_t b) const { return round_up(kept_.count(b) * block_cols_, kWidthUnit); }

  void pack_row(const Leaf& leaf, int64_t row) {
    const int64_t b = row / block_rows_;
    gather(b, leaf.values.data() + row * cols_,
           values_.as<float>() + starts_[static_cast<size_t>(b)] + row % block_rows_ * width(b));
  }

  // out [width(b)]: the columns of `row` that the blocks of block row b have, then zeros.
  void gather(int64_t b, const float* row, float* out) const {
    float* const end = out + width(b);
    for (int64_t c = 0; c < kept_.count(b); ++c) {
      const int64_t col = kept_.columns(b)[c], some = std::min(block_cols_, cols_ - col);
      std::memcpy(out, row + col, static_cast<size_t>(some) * 4);
      std::fill(out + some, out + block_cols_, 0.0f);
      out += block_cols_;
    }
    std::fill(out, end, 0.0f);
  }

  KeptBlocks kept_;
  int64_t block_rows_, block_cols_;
  std::vector<int64_t> starts_;  // [block rows + 1], into values_
  int64_t widest_ = 0;
  Buffer values_;                     // [block row][row][width]
  std::shared_ptr<Buffer> gathered_;  // [threads × kTokens × widest]
};

}  // namespace

Kernel native_block_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned in blocks: kept blocks alone, their rows side by side in panels";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::block) return "multiplies weights pruned in blocks";
    if (leaf.pattern.block_rows < 1 || leaf.pattern.block_cols < 1)
      return "expects a block of at least 1 × 1";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    const int64_t panel = cpu_ops().panel_rows, rows = leaf.pattern.block_rows;
    if (rows == panel || rows % (2 * panel) == 0) return std::make_unique<StripLayer>(leaf, options);
    return std::make_unique<GatherLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

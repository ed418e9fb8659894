// Pruned in blocks: the kept blocks of a block row stand side by side as one short dense matrix, and the
// activations they meet are gathered to match. So the dense loops do only the kept work, whatever the block's
// size.
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class BlockLayer final : public CpuLayer {
 public:
  BlockLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        block_rows_(leaf.pattern.block_rows),
        block_cols_(leaf.pattern.block_cols) {
    row_unit_ = block_rows_;
    const int64_t block_row_count = (rows_ + block_rows_ - 1) / block_rows_;
    // Each block row's kept blocks, by their first columns.
    std::vector<std::vector<int32_t>> columns(static_cast<size_t>(block_row_count));
    pack_rows(rows_, row_unit_, threads_, [&](Range rows) {
      for (int64_t row = rows.begin; row < rows.end; row += block_rows_)
        for (int64_t col = 0; col < cols_; col += block_cols_)
          if (any_kept(leaf, row, block_height(row / block_rows_), col))
            columns[row / block_rows_].push_back(static_cast<int32_t>(col));
    });
    columns_start_.push_back(0);
    values_start_.push_back(0);
    for (int64_t b = 0; b < block_row_count; ++b) {
      const int64_t height = block_height(b);
      for (int32_t col : columns[b])
        macs_ += static_cast<double>(height * std::min(block_cols_, cols_ - col));
      columns_.insert(columns_.end(), columns[b].begin(), columns[b].end());
      columns_start_.push_back(static_cast<int64_t>(columns_.size()));
      widths_.push_back(round_up(static_cast<int64_t>(columns[b].size()) * block_cols_, kWidthUnit));
      values_start_.push_back(values_start_.back() + height * widths_.back());
      widest_ = std::max(widest_, widths_.back());
    }
    values_ = Buffer::untouched(values_start_.back() * 4);
    pack_rows(rows_, row_unit_, threads_, [&](Range rows) {
      for (int64_t row = rows.begin; row < rows.end; ++row) pack_row(leaf, row);
    });
    gathered_ = make_scratch(options, threads_ * kTokens * widest_ * 4, threads_);
    weight_bytes_ =
        values_.bytes() + static_cast<int64_t>(columns_.size() * 4 + 8 * (columns_start_.size() * 2));
  }

 protected:
  static constexpr int64_t kWidthUnit = 32;  // what the dense loops ask for
  static constexpr int64_t kTokens = 16;     // gathered together

  void prepare(const float*, int64_t, int, int) override {}

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    float* gathered = gathered_->as<float>() + part * kTokens * widest_;
    for (int64_t b = rows.begin / block_rows_; b * block_rows_ < rows.end; ++b) {
      const int64_t width = widths_[b];
      const int64_t count = columns_start_[b + 1] - columns_start_[b];
      for (int64_t token = 0; token < tokens; token += kTokens) {
        const int64_t some = std::min(kTokens, tokens - token);
        for (int64_t t = 0; t < some; ++t)
          gather(x + (token + t) * cols_, columns_.data() + columns_start_[b], count, gathered + t * width,
                 width);
        ops_.dot_f32(values_.as<float>() + values_start_[b], width, block_height(b), gathered, width, some,
                     width, y + token * rows_ + b * block_rows_, rows_, false);
      }
    }
  }

  double macs() const override { return macs_; }

 private:
  int64_t block_height(int64_t b) const { return std::min(block_rows_, rows_ - b * block_rows_); }

  void pack_row(const Leaf& leaf, int64_t row) {
    const int64_t b = row / block_rows_, width = widths_[b];
    float* to = values_.as<float>() + values_start_[b] + row % block_rows_ * width;
    std::fill(to, to + width, 0.0f);
    for (int64_t c = columns_start_[b]; c < columns_start_[b + 1]; ++c, to += block_cols_) {
      const int64_t col = columns_[c];
      std::memcpy(to, leaf.values.data() + row * cols_ + col,
                  static_cast<size_t>(std::min(block_cols_, cols_ - col)) * 4);
    }
  }

  bool any_kept(const Leaf& leaf, int64_t row, int64_t height, int64_t col) const {
    const int64_t end = std::min(col + block_cols_, cols_);
    for (int64_t i = row; i < row + height; ++i) {
      for (int64_t j = col; j < end; ++j) {
        const auto at = static_cast<size_t>(i * cols_ + j);
        if (leaf.mask.empty() ? leaf.values[at] != 0 : leaf.mask[at] != 0) return true;
      }
    }
    return false;
  }

  void gather(const float* x, const int32_t* columns, int64_t count, float* out, int64_t width) const {
    if (block_cols_ == 16 && cols_ % 16 == 0) {  // the usual size, without calls
      for (int64_t c = 0; c < count; ++c) std::memcpy(out + c * 16, x + columns[c], 64);
    } else {
      for (int64_t c = 0; c < count; ++c) {
        const int64_t some = std::min(block_cols_, cols_ - columns[c]);
        std::memcpy(out + c * block_cols_, x + columns[c], static_cast<size_t>(some) * 4);
        std::fill(out + c * block_cols_ + some, out + (c + 1) * block_cols_, 0.0f);
      }
    }
    std::fill(out + count * block_cols_, out + width, 0.0f);
  }

  int64_t block_rows_, block_cols_;
  std::vector<int32_t> columns_;        // first column of each kept block, block row by block row
  std::vector<int64_t> columns_start_;  // [block rows + 1], into columns_
  std::vector<int64_t> values_start_;   // [block rows + 1], into values_
  std::vector<int64_t> widths_;         // [block rows], padded columns of the short matrix
  int64_t widest_ = 0;
  double macs_ = 0;
  Buffer values_;
  std::shared_ptr<Buffer> gathered_;  // [threads × kTokens × widest]
};

}  // namespace

Kernel native_block_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned in blocks: kept blocks packed side by side, activations gathered to match";
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
    return std::make_unique<BlockLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

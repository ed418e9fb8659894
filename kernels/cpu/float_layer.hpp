// Float32 activations times weights that are, or expand to, float32: dense, 4-bit, and pruned by a bitmap.
#pragma once

#include "kernels/cpu/cpu_layer.hpp"

namespace lamina {

// Weights provide
//   Weights(const Leaf&, const LayerOptions&, const CpuOps&, int64_t padded)
//   static constexpr int64_t kColumnUnit                   columns are padded to a multiple of this
//   bytes(), macs()                                        as packed; multiply-adds of one token
//   gemv(ops, rows, x, y)                                  one token: y[i] for the rows
//   struct Cursor; seek(row) → Cursor                      where a row starts, for expand()
//   tile(ops, cursor, row, col, cols, scratch, stride) → const float*
//       columns [col, col + cols) of one row, expanded into scratch or in place; moves the cursor on
template <class Weights>
class FloatLayer final : public CpuLayer {
 public:
  FloatLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, Weights::kColumnUnit),
        weights_(leaf, options, ops_, padded_),
        activations_(cols_, padded_, options),
        scratch_(make_scratch(options, threads_ * kMaxGroupRows * kChunk * 4, threads_)) {
    weight_bytes_ = weights_.bytes();
  }

 protected:
  // Columns at a time: 8 expanded rows and a few tokens stay in the first-level cache.
  static constexpr int64_t kChunk = 512;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    const float* input = activations_.data(x);
    if (padded_ == 0) {
      for (int64_t t = 0; t < tokens; ++t)
        std::fill(y + t * rows_ + rows.begin, y + t * rows_ + rows.end, 0.0f);
      return;
    }
    if (tokens == 1) {
      weights_.gemv(ops_, rows, input, y);
      return;
    }
    float* scratch = scratch_->template as<float>() + part * kMaxGroupRows * kChunk;
    typename Weights::Cursor cursors[kMaxBlockRows];
    for_each_tile(
        rows, padded_, kChunk, tokens,
        [&](const Tile& tile) {
          auto* cursor = cursors + (tile.row - tile.block_row);
          if (tile.col == 0) {
            for (int64_t r = 0; r < tile.rows; ++r) cursor[r] = weights_.seek(tile.row + r);
          }
          int64_t stride = kChunk;
          const float* w = weights_.tile(ops_, cursor, tile, scratch, &stride);
          ops_.dot_f32(w, stride, tile.rows, input + tile.token * padded_ + tile.col, padded_, tile.tokens,
                       tile.cols, y + tile.token * rows_ + tile.row, rows_, tile.col > 0);
        },
        [](int64_t, int64_t, int64_t, int64_t) {});
  }

  double macs() const override { return weights_.macs(); }

 private:
  Weights weights_;
  PaddedActivations activations_;
  std::shared_ptr<Buffer> scratch_;  // [threads × kMaxGroupRows × kChunk]
};

}  // namespace lamina

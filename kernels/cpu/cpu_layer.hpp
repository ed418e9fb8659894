// What the native kernels share: rows are dealt to threads, columns are padded for the vector loops, tokens
// and rows are met in tiles that stay in the caches.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "kernels/buffer.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/registry.hpp"

namespace lamina {

inline constexpr int64_t kMaxGroupRows = 8;      // rows whose weights are expanded together
inline constexpr int64_t kMaxBlockRows = 32;     // rows that share one pass over a chunk of the activations
inline constexpr int64_t kMaxBlockTokens = 128;  // tokens whose chunk stays in the second-level cache

inline int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Memory that a forward writes and reads again: shared with the layer's copies where there is a workspace.
std::shared_ptr<Buffer> make_scratch(const LayerOptions& options, int64_t bytes, int threads = 1);

// A layer whose output features are computed in parallel. forward() runs one OpenMP region: every thread
// prepares its share of the activations, then computes its rows.
class CpuLayer : public Layer {
 public:
  // `column_unit`: columns are padded with zeros to a multiple of this.
  CpuLayer(const Leaf& leaf, const LayerOptions& options, int64_t column_unit);

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) final;
  Cost cost(int64_t tokens) const override;
  int64_t weight_bytes() const final { return weight_bytes_; }

 protected:
  // Fills what compute() reads of the activations: thread `part` of `parts` does its share.
  virtual void prepare(const float* x, int64_t tokens, int part, int parts) = 0;
  // Writes y[t·rows() + i] for all tokens and the rows in `rows`.
  virtual void compute(const float* x, float* y, int64_t tokens, Range rows, int part) = 0;
  // Multiply-adds of one token.
  virtual double macs() const { return static_cast<double>(rows_) * static_cast<double>(cols_); }
  virtual bool integer() const { return false; }

  // The rows of thread `part`, at multiples of `row_unit_`.
  Range thread_rows(int part, int parts) const;

  const CpuOps& ops_;
  int64_t rows_, cols_;
  int64_t padded_;  // columns
  int64_t max_tokens_;
  int threads_;
  int64_t row_unit_ = 4;
  int64_t weight_bytes_ = 0;  // set by the derived class once it has packed
};

// The activations as float32, padded: x itself where no padding is needed.
class PaddedActivations {
 public:
  PaddedActivations(int64_t cols, int64_t padded, const LayerOptions& options);
  void prepare(const float* x, int64_t tokens, int part, int parts);
  const float* data(const float* x) const { return cols_ == padded_ ? x : copy_->as<float>(); }

 private:
  int64_t cols_, padded_;
  std::shared_ptr<Buffer> copy_;
};

// The activations as int8 codes widened to int16, padded, with a scale a token.
class QuantizedActivations {
 public:
  QuantizedActivations(int64_t cols, int64_t padded, const LayerOptions& options);
  void prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts);
  const int16_t* codes() const { return codes_->as<int16_t>(); }
  const float* scales() const { return scales_->as<float>(); }

 private:
  int64_t cols_, padded_;
  std::shared_ptr<Buffer> codes_, scales_;
};

// One step of a tiled product: a group of rows meets a chunk of columns for a block of tokens.
struct Tile {
  int64_t token, tokens;
  int64_t row, rows;  // at most kMaxGroupRows
  int64_t col, cols;  // a chunk
  int64_t block_row;  // the first row of the block that the group belongs to
};

// Walks `rows` × [0, padded) × `tokens` so that chunks of a row come in ascending order. `visit(tile)` for
// each tile, `finish(first row, rows, first token, tokens)` when all chunks of a block of rows are through.
template <class Visit, class Finish>
void for_each_tile(Range rows, int64_t padded, int64_t chunk, int64_t tokens, Visit visit, Finish finish) {
  for (int64_t token = 0; token < tokens; token += kMaxBlockTokens) {
    const int64_t block_tokens = std::min(kMaxBlockTokens, tokens - token);
    for (int64_t block = rows.begin; block < rows.end; block += kMaxBlockRows) {
      const int64_t block_end = std::min(block + kMaxBlockRows, rows.end);
      for (int64_t col = 0; col < padded; col += chunk) {
        for (int64_t row = block; row < block_end; row += kMaxGroupRows) {
          visit(Tile{token, block_tokens, row, std::min(kMaxGroupRows, block_end - row), col,
                     std::min(chunk, padded - col), block});
        }
      }
      finish(block, block_end - block, token, block_tokens);
    }
  }
}

// Why no native kernel takes this leaf, or empty: zero points, input scales, and more columns or rows than
// 2³¹.
std::string native_refusal(const Leaf& leaf);
// "multiplies …, not …" where the leaf is not float32 (8, 4) bits or its activations are not `rule`.
std::string kind_refusal(const Leaf& leaf, int bits, ActivationRule rule);

}  // namespace lamina

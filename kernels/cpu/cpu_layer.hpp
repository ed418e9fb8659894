// What the native kernels share: rows are dealt to threads, columns are padded for the vector loops, tokens
// and rows are met in tiles that stay in the caches.
#pragma once

#include <omp.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/registry.hpp"

namespace lamina {

inline constexpr int64_t kRowUnit = 4;  // rows dealt together where no panel or block says more

inline int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Tokens of a tile: tiles of at most `most`, as even as can be, so that no last one is left with a few.
inline int64_t tile_tokens(int64_t tokens, int64_t most) {
  const int64_t tiles = (tokens + most - 1) / most;
  return (tokens + tiles - 1) / std::max<int64_t>(tiles, 1);
}

inline int64_t tile_tokens(int64_t tokens, TokenTiles tiles) {
  return tokens <= tiles.alone ? tokens : tile_tokens(tokens, tiles.most);
}

// The rows of thread `part`: whole units, as evenly as they go. Packing deals rows as computing does, so that
// weights lie in the memory next to the thread that reads them.
inline Range deal_rows(int64_t rows, int64_t unit, int part, int parts) {
  const int64_t units = (rows + unit - 1) / unit;
  return {std::min(units * part / parts * unit, rows), std::min(units * (part + 1) / parts * unit, rows)};
}

// Calls pack(rows) in each of `threads` threads with those it is dealt. `pack` must not throw.
template <class Pack>
void pack_rows(int64_t rows, int64_t unit, int threads, const Pack& pack) {
#pragma omp parallel num_threads(std::max(threads, 1)) if (threads > 1)
  {
    const Range own = deal_rows(rows, unit, omp_get_thread_num(), omp_get_num_threads());
    if (own.size() > 0) pack(own);
  }
}

// Memory that a forward writes and reads again: shared with the layer's copies where there is a workspace.
std::shared_ptr<Buffer> make_scratch(const LayerOptions& options, int64_t bytes, int threads = 1);

// A layer whose output features are computed in parallel. forward() runs one OpenMP region: every thread
// prepares its share of the activations, divided by the leaf's input scales where it has some, then computes
// its rows.
class CpuLayer : public Layer {
 public:
  // `column_unit`: columns are padded with zeros to a multiple of this.
  CpuLayer(const Leaf& leaf, const LayerOptions& options, int64_t column_unit);

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) final;
  // One OpenMP region for both, where `next` is a CpuLayer too.
  void forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                    Stream& stream) final;
  Cost cost(int64_t tokens) const override;
  int64_t weight_bytes() const final {
    return weight_bytes_ + static_cast<int64_t>(input_scales_.size()) * 4;
  }

 protected:
  // Fills what compute() reads of the activations: thread `part` of `parts` does its share.
  virtual void prepare(const float* x, int64_t tokens, int part, int parts) = 0;
  // Writes y[t·rows() + i] for all tokens and the rows in `rows`.
  virtual void compute(const float* x, float* y, int64_t tokens, Range rows, int part) = 0;
  // Multiply-adds of one token.
  virtual double macs() const { return static_cast<double>(rows_) * static_cast<double>(cols_); }
  virtual Arithmetic arithmetic() const { return Arithmetic::f32; }

  static void fill_zero(float* y, int64_t stride, int64_t tokens, Range rows) {
    for (int64_t t = 0; t < tokens; ++t)
      std::fill(y + t * stride + rows.begin, y + t * stride + rows.end, 0.0f);
  }

  const CpuOps& ops_;
  int64_t rows_, cols_;
  int64_t padded_;  // columns
  int64_t max_tokens_;
  int threads_;
  int64_t row_unit_ = kRowUnit;  // a thread's rows begin at multiples of it
  int64_t weight_bytes_ = 0;     // set by the derived class once it has packed

 private:
  // Does the work of a forward, of several threads of compute() alone, and waits by an injected slowdown.
  template <class Work>
  void lasting(int64_t tokens, const Work& work);
  // A thread's share of forward(), within a region.
  void share(const float* x, float* y, int64_t tokens);
  // The activations over the input scales, where there are any: a thread's share of them.
  const float* divide(const float* x, int64_t tokens, int part, int parts);

  std::vector<float> input_scales_;
  std::shared_ptr<Buffer> divided_;  // [tokens × cols]
};

// Activations in tiles of tokens, as the panel functions read them: what a tile of tokens has of
// a column (or of a word of columns) lies together.
class TiledActivations {
 public:
  // `padded` columns, zeros past `cols`. Rounded to bfloat16 where `rounding` is given, by its function.
  TiledActivations(int64_t cols, int64_t padded, TokenTiles tiles, const LayerOptions& options,
                   const CpuOps* rounding = nullptr);
  void prepare(const float* x, int64_t tokens, int part, int parts);
  // From now on each token comes multiplied by a power of two, an exact way to keep products and sums within
  // float32's range; `scales` of the tokens take it back but for the unit. normalise() brings every token's
  // largest magnitude to between 1 and 2, over `unit`, so that products with tiny factors do not underflow.
  // tame() divides by 2⁶⁴ the tokens that have a magnitude from there on, and leaves the others alone.
  void normalise(float unit, const LayerOptions& options);
  void tame(const LayerOptions& options);
  const float* scales() const { return scales_->as<float>(); }
  // Of the tile that begins with `token`, from column `col` on.
  const float* data(const float* x, int64_t token, int64_t tokens, int64_t col) const {
    return as_they_are_ ? x + col : data_->as<float>() + token * padded_ + col * tokens;
  }

 private:
  enum class Scaling { none, normal, tame };
  void scale_by(Scaling scaling, const LayerOptions& options);
  // Of a token whose largest magnitude this is: the power of two that it is divided by.
  int exponent_of(float largest) const;
  void find_largest(const float* x, int64_t tokens, int64_t begin, int64_t end, int part, int parts);
  float largest_of(int64_t token, int parts) const;
  void prepare_rounded(const float* x, int64_t tokens, int64_t begin, int64_t end);
  int64_t cols_, padded_;
  TokenTiles tiles_;
  const CpuOps* rounding_;
  Scaling scaling_ = Scaling::none;
  int unit_exponent_ = 0;
  int64_t largest_stride_ = 0;
  bool as_they_are_ = false;  // one token, nothing to pad, to round or to scale
  std::shared_ptr<Buffer> data_, scales_;
  std::shared_ptr<Buffer> largest_;  // [threads × largest_stride]: of a token, in each thread's columns
};

// The activations' codes in tiles, `word` columns together in 32 bits: 4 int8 or 2 int16; `together` words of
// a token side by side, 1 or 16 of 4 int8. `group` columns have a start, −bias times the sum of their codes.
class TiledCodes {
 public:
  TiledCodes(int64_t cols, int64_t padded, TokenTiles tiles, int64_t word, int64_t together, int64_t group,
             int32_t bias, const LayerOptions& options);
  void prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts);
  const int32_t* words(int64_t token, int64_t tokens, int64_t col) const {
    return words_->as<int32_t>() + (token * padded_ + col * tokens) / word_;
  }
  const int32_t* starts(int64_t token, int64_t tokens, int64_t col) const {
    return starts_->as<int32_t>() + token * groups_ + col / group_ * tokens;
  }
  const float* scales() const { return scales_->as<float>(); }

 private:
  void prepare_token(const CpuOps& ops, const float* x, int64_t tokens, int64_t token, int part);
  int64_t cols_, padded_, word_, together_, group_, groups_;
  int32_t bias_;
  TokenTiles tiles_;
  std::shared_ptr<Buffer> words_, starts_, scales_;
  std::shared_ptr<Buffer> row_, sums_;  // a thread's row of codes, and their sums
};

// The activations as bfloat16 in tiles, 2 columns together in 32 bits, `together` (1 or 16) words of a token
// side by side.
class TiledPairs {
 public:
  // `padded` columns, zeros past `cols`: a multiple of 2 · together.
  TiledPairs(int64_t cols, int64_t padded, TokenTiles tiles, int64_t together, const LayerOptions& options);
  void prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts);
  const uint32_t* words(int64_t token, int64_t tokens, int64_t col) const {
    return words_->as<uint32_t>() + (token * padded_ + col * tokens) / 2;
  }

 private:
  int64_t cols_, padded_, together_;
  TokenTiles tiles_;
  std::shared_ptr<Buffer> words_;
};

// Where a block of panels begins, and which of a tile's parts of it, that pass before its turn comes, is to
// be fetched meanwhile. No parts: there is no such block, or one tile is all.
struct NextBlock {
  int64_t row = 0, col = 0, cols = 0, part = 0, parts = 0;

  // Of the block's panels, which lie panel_bytes apart from `at` on, column_bytes of each a column.
  Ahead ahead(const uint8_t* at, int64_t panel_bytes, int64_t column_bytes) const {
    if (parts == 0) return {};
    if (part >= parts) return {at, panel_bytes, 0};  // no division, which takes long beside a short tile
    const int64_t some = cols * column_bytes / parts;
    return {at + part * some, panel_bytes, some};
  }
};

// Walks `rows` × `columns` × `tokens` for the panel functions. Tokens of one tile meet all rows and columns
// at once: visit(rows.begin, rows.size(), 0, columns, 0, tokens, {}). More of them go by blocks of two panels
// and some columns, which stay in the second-level cache while a block of tokens passes: first open(first
// row, rows, first column, columns), then visit(…, first token, tokens, next block) for each tile. Its first
// tiles fetch the next block, so that memory works while they multiply. More `panels` together read a tile of
// activations as often from the first-level cache.
inline constexpr int64_t kPanelTokens = 256;
inline constexpr int64_t kFetchTiles = 8;  // the most that share the next block

// Which blocks follow one another. By rows, sums of a panel are complete before the next one begins. By
// columns, the activations of a block stay in the second-level cache while many rows pass: for products so
// fast that the third would hold them back. Not all rows: their sums too should be in a cache when the next
// block adds to them.
enum class PanelOrder { rows, columns };
inline constexpr int64_t kGroupRows = 512;  // whole blocks of panels

// Of float32 activations, which rows would read from the third-level cache time and again once they are more
// than the second holds.
inline PanelOrder order_f32(int64_t tokens, int64_t columns) {
  return std::min(tokens, kPanelTokens) * columns * 4 > int64_t{1} << 20 ? PanelOrder::columns
                                                                         : PanelOrder::rows;
}

template <class Open, class Visit>
void for_each_panel_tile(Range rows, int64_t panel_rows, int64_t columns, int64_t column_block,
                         int64_t tokens, TokenTiles tiles, Open open, Visit visit, int64_t panels = 2,
                         PanelOrder order = PanelOrder::rows) {
  if (tokens <= tiles.alone) return visit(rows.begin, rows.size(), 0, columns, 0, tokens, NextBlock{});
  const int64_t tile = tile_tokens(tokens, tiles);
  // As even as can be: weights pass once for each.
  const int64_t tiles_of_all = (tokens + tile - 1) / tile;
  const int64_t blocks = std::max((tokens + kPanelTokens / 2) / kPanelTokens, int64_t{1});
  const int64_t token_block = (tiles_of_all + blocks - 1) / blocks * tile;
  for (int64_t first = 0; first < tokens; first += token_block) {
    const int64_t last = std::min(first + token_block, tokens);
    const auto run = [&](int64_t row, int64_t col, NextBlock next) {
      const int64_t count = std::min(panels * panel_rows, rows.end - row);
      const int64_t width = std::min(column_block, columns - col);
      open(row, count, col, width);
      next.parts = std::min((last - first + tile - 1) / tile, kFetchTiles);
      for (int64_t token = first; token < last; token += tile, ++next.part)
        visit(row, count, col, width, token, std::min(tile, last - token), next);
    };
    // Each block runs when the one after it is known.
    NextBlock known;
    bool any = false;
    const auto block = [&](int64_t row, int64_t col) {
      const NextBlock next{row, col, std::min(column_block, columns - col), 0, 0};
      if (any) run(known.row, known.col, next);
      known = next, any = true;
    };
    if (order == PanelOrder::columns) {
      for (int64_t group = rows.begin; group < rows.end; group += kGroupRows)
        for (int64_t col = 0; col < columns; col += column_block)
          for (int64_t row = group; row < std::min(group + kGroupRows, rows.end); row += panels * panel_rows)
            block(row, col);
    } else {
      for (int64_t row = rows.begin; row < rows.end; row += panels * panel_rows)
        for (int64_t col = 0; col < columns; col += column_block) block(row, col);
    }
    if (any) run(known.row, known.col, {rows.begin, 0, std::min(column_block, columns), 0, 0});
  }
}
// Of tiles of up to `most` tokens, whether they are alone or not.
template <class Open, class Visit>
void for_each_panel_tile(Range rows, int64_t panel_rows, int64_t columns, int64_t column_block,
                         int64_t tokens, int64_t most, Open open, Visit visit, int64_t panels = 2) {
  for_each_panel_tile(rows, panel_rows, columns, column_block, tokens, TokenTiles{most, most}, open, visit,
                      panels);
}
inline constexpr auto kOpenNothing = [](int64_t, int64_t, int64_t, int64_t) {};

// Why no native kernel takes this leaf, or empty: zero points, and more columns or rows than 2³¹.
std::string native_refusal(const Leaf& leaf);
// "multiplies …, not …" where the leaf is not float32 (8, 4) bits or its activations are not `rule`.
std::string kind_refusal(const Leaf& leaf, int bits, ActivationRule rule);

}  // namespace lamina

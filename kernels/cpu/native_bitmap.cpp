// Pruned weights of no or N:M pattern: a bit a column says what is kept, the kept values follow one another.
// 2:4 weights have a kernel of their own. Few tokens meet rows spread in registers; many are lanes
// themselves, and each kept weight meets them by its column alone.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class BitmapWeights {
 public:
  BitmapWeights(const Leaf& leaf, const LayerOptions& options, int64_t padded)
      : words(padded / 64), bits_(Buffer::untouched(leaf.rows * words * 8)), starts_((leaf.rows + 1) * 8) {
    auto* starts = starts_.as<int64_t>();
    pack_rows(leaf.rows, kRowUnit, options.threads, [&](Range rows) {
      auto* bits = bits_.as<uint64_t>() + rows.begin * words;
      std::fill(bits, bits + rows.size() * words, uint64_t{0});
      for (int64_t i = rows.begin; i < rows.end; ++i, bits += words) {
        for (int64_t j = 0; j < leaf.cols; ++j) {
          if (!is_kept(leaf, i, j)) continue;
          bits[j / 64] |= uint64_t{1} << (j % 64);
          ++starts[i + 1];
        }
      }
    });
    for (int64_t i = 0; i < leaf.rows; ++i) starts[i + 1] += starts[i];
    kept_ = starts[leaf.rows];
    // The loops read a whole vector at a row's last value.
    values_ = Buffer::untouched((kept_ + kReadAhead) * 4);
    pack_rows(leaf.rows, kRowUnit, options.threads, [&](Range rows) {
      float* values = values_.as<float>() + starts[rows.begin];
      for (int64_t i = rows.begin; i < rows.end; ++i)
        for (int64_t j = 0; j < leaf.cols; ++j)
          if (is_kept(leaf, i, j)) *values++ = leaf.values[static_cast<size_t>(i * leaf.cols + j)];
    });
    std::fill_n(values_.as<float>() + kept_, kReadAhead, 0.0f);
  }

  int64_t bytes() const { return kept_ * 4 + bits_.bytes() + starts_.bytes(); }
  int64_t kept() const { return kept_; }
  const float* values() const { return values_.as<float>(); }
  const int64_t* starts(int64_t row) const { return starts_.as<int64_t>() + row; }
  const uint64_t* bits(int64_t row) const { return bits_.as<uint64_t>() + row * words; }

  const int64_t words;  // of a row

 private:
  static constexpr int64_t kReadAhead = 16;

  static bool is_kept(const Leaf& leaf, int64_t i, int64_t j) {
    const auto at = static_cast<size_t>(i * leaf.cols + j);
    return leaf.mask.empty() ? leaf.values[at] != 0 : leaf.mask[at] != 0;
  }

  int64_t kept_ = 0;
  Buffer bits_;    // [rows × words]
  Buffer starts_;  // [rows + 1] int64: where a row's values start
  Buffer values_;
};

class BitmapLayer final : public CpuLayer {
 public:
  BitmapLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 64),
        weights_(leaf, options, padded_),
        activations_(make_scratch(options, activation_bytes())),
        sums_floats_(in_lanes(max_tokens_) ? kRowBlock * ops_.vectors_24 * ops_.panel_rows : 0),
        sums_(make_scratch(options, threads_ * sums_floats_ * 4, threads_)) {
    weight_bytes_ = weights_.bytes();
  }

 protected:
  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    if (!in_lanes(tokens)) return prepare_few(x, tokens, part, parts);
    const int64_t begin = weights_.words * part / parts, end = weights_.words * (part + 1) / parts;
    for_each_token_tile(tokens, [&](int64_t token, int64_t some, int64_t lanes, float* tile) {
      for (int64_t word = begin; word < end; ++word) {
        float* to = tile + word * kColumnsBitmap * lanes;
        const int64_t there = std::min<int64_t>(cols_ - word * 64, 64);
        for (int64_t t = 0; t < some; ++t) {
          const float* from = x + (token + t) * cols_ + word * 64;
          for (int64_t i = 0; i < there; ++i) to[i * lanes + t] = from[i];
        }
        for (int64_t i = 0; i < there; ++i) std::fill(to + i * lanes + some, to + (i + 1) * lanes, 0.0f);
        std::fill(to + there * lanes, to + kColumnsBitmap * lanes, 0.0f);
      }
    });
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    if (in_lanes(tokens)) return compute_many(y, tokens, rows, part);
    compute_few(x, y, tokens, rows);
  }

  double macs() const override { return static_cast<double>(weights_.kept()); }

 private:
  // A tile's activations of some words of columns stay in the first-level cache while the rows of a block
  // pass, whose sums stay in the second.
  static constexpr int64_t kRowBlock = 128, kBlockBytes = 24 << 10;
  // Of up to kFewLanes vectors of tokens smaller blocks are faster, though they read activations more often.
  static constexpr int64_t kFewLanes = 2, kFewRowBlock = 16, kFewWords = 5;

  // The same of few tokens, which stream from the second-level cache: a block ends a row's stream of values,
  // which costs more.
  static constexpr int64_t kFewBytes = 64 << 10;
  // Rows that go once, from end to end, in blocks that make long streams; more passes follow one another
  // while fewer rows are in the second-level cache.
  static constexpr int64_t kStreamRows = 512, kPassRows = 24;

  bool in_lanes(int64_t tokens) const { return tokens > ops_.tokens_bitmap; }
  bool as_they_are(int64_t tokens) const { return tokens == 1 && cols_ == padded_; }

  int64_t activation_bytes() const {
    const int64_t few = std::min(max_tokens_, ops_.tokens_bitmap) * padded_;
    const int64_t many =
        in_lanes(max_tokens_) ? round_up(max_tokens_, ops_.panel_rows) * weights_.words * kColumnsBitmap : 0;
    return std::max(few, many) * 4;
  }

  void prepare_few(const float* x, int64_t tokens, int part, int parts) {
    if (as_they_are(tokens)) return;
    const int64_t vector = ops_.panel_rows;
    const int64_t begin = weights_.words * part / parts * 64, end = weights_.words * (part + 1) / parts * 64;
    float* to = activations_->as<float>() + begin * tokens;
    for (int64_t col = begin; col < end; col += vector) {
      const int64_t there = std::clamp<int64_t>(cols_ - col, 0, vector);
      for (int64_t t = 0; t < tokens; ++t, to += vector) {
        if (there > 0) std::copy_n(x + t * cols_ + col, there, to);
        std::fill(to + there, to + vector, 0.0f);
      }
    }
  }

  void compute_few(const float* x, float* y, int64_t tokens, Range rows) {
    const float* in = as_they_are(tokens) ? x : activations_->as<float>();
    const int64_t step = std::max<int64_t>(kFewBytes / (64 * 4 * tokens), 1);
    const int64_t row_block = step >= weights_.words ? kStreamRows : kPassRows;
    const float* values[kStreamRows];
    for (int64_t row = rows.begin; row < rows.end; row += row_block) {
      const int64_t count = std::min(row_block, rows.end - row);
      for (int64_t r = 0; r < count; ++r) values[r] = weights_.values() + *weights_.starts(row + r);
      for (int64_t word = 0; word < weights_.words; word += step)
        ops_.spread_bitmap(values, weights_.bits(row) + word, weights_.words, count, in + word * 64 * tokens,
                           tokens, std::min(step, weights_.words - word), y + row, rows_, word > 0);
    }
  }

  // visit(first token, tokens, lanes, activations): tiles of as many vectors each as can be.
  template <class Visit>
  void for_each_token_tile(int64_t tokens, Visit visit) const {
    const int64_t vector = ops_.panel_rows;
    const int64_t tile = tile_tokens(round_up(tokens, vector) / vector, ops_.vectors_24) * vector;
    for (int64_t token = 0; token < tokens; token += tile) {
      const int64_t some = std::min(tile, tokens - token);
      visit(token, some, round_up(some, vector),
            activations_->as<float>() + token * weights_.words * kColumnsBitmap);
    }
  }

  void compute_many(float* y, int64_t tokens, Range rows, int part) {
    float* sums = sums_->as<float>() + part * sums_floats_;
    const float* values[kRowBlock];
    const bool few = tokens <= kFewLanes * ops_.panel_rows;
    const int64_t row_block = few ? kFewRowBlock : kRowBlock;
    for (int64_t row = rows.begin; row < rows.end; row += row_block) {
      const int64_t count = std::min(row_block, rows.end - row);
      for_each_token_tile(tokens, [&](int64_t token, int64_t some, int64_t lanes, const float* tile) {
        for (int64_t r = 0; r < count; ++r) values[r] = weights_.values() + *weights_.starts(row + r);
        const int64_t step = std::clamp<int64_t>(kBlockBytes / (kColumnsBitmap * lanes * 4), 1,
                                                 few ? kFewWords : kMostWordsBitmap);
        for (int64_t word = 0; word < weights_.words; word += step)
          ops_.rows_bitmap(values, weights_.bits(row) + word, weights_.words, count,
                           tile + word * kColumnsBitmap * lanes, lanes / ops_.panel_rows,
                           std::min(step, weights_.words - word), sums, word > 0);
        for (int64_t t = 0; t < some; ++t)
          for (int64_t r = 0; r < count; ++r) y[(token + t) * rows_ + row + r] = sums[r * lanes + t];
      });
    }
  }

  BitmapWeights weights_;
  // [vector of columns][token][column], or of many tokens [tile][word][kColumnsBitmap][lane]
  std::shared_ptr<Buffer> activations_;
  int64_t sums_floats_;           // of a thread
  std::shared_ptr<Buffer> sums_;  // [threads × kRowBlock × lanes of a tile]
};

}  // namespace

Kernel native_bitmap_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned (unstructured, N:M): a bitmap and the kept float32 values";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::unstructured && leaf.pattern.kind != PatternKind::n_of_m)
      return "multiplies weights pruned without pattern or N:M";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<BitmapLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// Pruned weights of no or N:M pattern: a bit a column says what is kept, the kept values follow one another.
// A bitmap of 2:4 weights is as small as 2-bit indices would be (4 bits a group either way).
#include "kernels/cpu/float_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class BitmapWeights {
 public:
  static constexpr int64_t kColumnUnit = 64;
  using Cursor = const float*;

  BitmapWeights(const Leaf& leaf, const LayerOptions& options, const CpuOps&, int64_t padded)
      : words_(padded / 64), bits_(Buffer::untouched(leaf.rows * words_ * 8)), starts_((leaf.rows + 1) * 8) {
    auto* starts = starts_.as<int64_t>();
    pack_rows(leaf.rows, kRowUnit, options.threads, [&](Range rows) {
      auto* bits = bits_.as<uint64_t>() + rows.begin * words_;
      std::fill(bits, bits + rows.size() * words_, uint64_t{0});
      for (int64_t i = rows.begin; i < rows.end; ++i, bits += words_) {
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
  double macs() const { return static_cast<double>(kept_); }

  void gemv(const CpuOps& ops, Range rows, const float* x, float* y) const {
    ops.dot_bitmap(values_.as<float>(), starts_.as<int64_t>() + rows.begin,
                   bits_.as<uint64_t>() + rows.begin * words_, rows.size(), x, words_ * 64, y + rows.begin);
  }
  Cursor seek(int64_t row) const { return values_.as<float>() + starts_.as<int64_t>()[row]; }
  const float* tile(const CpuOps& ops, Cursor* cursor, const Tile& tile, float* scratch,
                    int64_t* stride) const {
    for (int64_t r = 0; r < tile.rows; ++r) {
      const uint64_t* bits = bits_.as<uint64_t>() + (tile.row + r) * words_ + tile.col / 64;
      cursor[r] = ops.expand_bitmap(cursor[r], bits, tile.cols, scratch + r * *stride);
    }
    return scratch;
  }

 private:
  static constexpr int64_t kReadAhead = 16;

  static bool is_kept(const Leaf& leaf, int64_t i, int64_t j) {
    const auto at = static_cast<size_t>(i * leaf.cols + j);
    return leaf.mask.empty() ? leaf.values[at] != 0 : leaf.mask[at] != 0;
  }

  int64_t words_;
  int64_t kept_ = 0;
  Buffer bits_;    // [rows × words]
  Buffer starts_;  // [rows + 1] int64: where a row's values start
  Buffer values_;
};

}  // namespace

Kernel native_bitmap_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "pruned (unstructured, N:M): a bitmap and the kept float32 values, expanded in registers";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::unstructured && leaf.pattern.kind != PatternKind::n_of_m)
      return "multiplies weights pruned without pattern or N:M";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<FloatLayer<BitmapWeights>>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

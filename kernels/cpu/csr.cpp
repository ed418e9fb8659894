// A peer of the bitmap: compressed sparse rows as a library of sparse products keeps them, row pointers,
// column indices of 16 bits where they suffice, and packed float32 values. One token goes row by row as
// there; more of them go side by side in vectors, a block of rows by a block of columns at a time.
#include <algorithm>
#include <memory>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

constexpr int64_t kShortColumns = 65536;  // what 16-bit indices reach

template <class Index>
struct CsrLoops;
template <>
struct CsrLoops<uint16_t> {
  static auto dot(const CpuOps& ops) { return ops.csr_dot_16; }
  static auto tile(const CpuOps& ops) { return ops.csr_tile_16; }
};
template <>
struct CsrLoops<uint32_t> {
  static auto dot(const CpuOps& ops) { return ops.csr_dot_32; }
  static auto tile(const CpuOps& ops) { return ops.csr_tile_32; }
};

constexpr int64_t kRowBlock = 32;  // rows that share one pass over a chunk of the activations

template <class Index>
class CsrLayer final : public CpuLayer {
 public:
  CsrLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        starts_((rows_ + 1) * 8),
        // The loops load whole vectors of tokens, past the last column's.
        activations_(cols_, cols_ + ops_.panel_rows, {ops_.csr_tokens, ops_.csr_tokens}, options),
        sums_(make_scratch(options, threads_ * kRowBlock * ops_.csr_tokens * 4, threads_)) {
    auto* starts = starts_.as<int64_t>();
    pack_rows(rows_, kRowUnit, threads_, [&](Range rows) {
      for (int64_t i = rows.begin; i < rows.end; ++i)
        for (int64_t j = 0; j < cols_; ++j) starts[i + 1] += is_kept(leaf, i, j) ? 1 : 0;
    });
    for (int64_t i = 0; i < rows_; ++i) starts[i + 1] += starts[i];
    columns_ = Buffer::untouched(starts[rows_] * static_cast<int64_t>(sizeof(Index)));
    values_ = Buffer::untouched(starts[rows_] * 4);
    pack_rows(rows_, kRowUnit, threads_, [&](Range rows) {
      int64_t at = starts[rows.begin];
      for (int64_t i = rows.begin; i < rows.end; ++i) {
        for (int64_t j = 0; j < cols_; ++j) {
          if (!is_kept(leaf, i, j)) continue;
          columns_.template as<Index>()[at] = static_cast<Index>(j);
          values_.template as<float>()[at] = leaf.values[static_cast<size_t>(i * cols_ + j)];
          ++at;
        }
      }
    });
    weight_bytes_ = starts_.bytes() + columns_.bytes() + values_.bytes();
  }

 protected:
  // Activations that stay in the first-level cache while a block of rows passes: 24 KB.
  static constexpr int64_t kBlockFloats = 6144;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    if (tokens > 1) activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int part) override {
    const auto* starts = starts_.template as<int64_t>();
    const auto* columns = columns_.template as<Index>();
    const auto* values = values_.template as<float>();
    if (tokens == 1) {
      CsrLoops<Index>::dot(ops_)(values, columns, starts + rows.begin, rows.size(), x, y + rows.begin);
      return;
    }
    const int64_t tile = tile_tokens(tokens, ops_.csr_tokens), stride = ops_.csr_tokens;
    float* sums = sums_->template as<float>() + part * kRowBlock * stride;
    // A block of rows stays in the second-level cache while all tokens pass.
    for (int64_t row = rows.begin; row < rows.end; row += kRowBlock) {
      const int64_t count = std::min(kRowBlock, rows.end - row);
      for (int64_t token = 0; token < tokens; token += tile) {
        const int64_t some = std::min(tile, tokens - token);
        const float* in = activations_.data(x, token, some, 0);
        int64_t reached[kRowBlock];
        std::copy_n(starts + row, count, reached);
        std::fill_n(sums, count * stride, 0.0f);
        const int64_t block = kBlockFloats / some;
        for (int64_t limit = block; limit < cols_ + block; limit += block)
          for (int64_t r = 0; r < count; ++r)
            reached[r] = CsrLoops<Index>::tile(ops_)(values, columns, reached[r], starts[row + r + 1], limit,
                                                     in, some, sums + r * stride);
        for (int64_t t = 0; t < some; ++t)
          for (int64_t r = 0; r < count; ++r) y[(token + t) * rows_ + row + r] = sums[r * stride + t];
      }
    }
  }

  double macs() const override { return static_cast<double>(starts_.template as<int64_t>()[rows_]); }

 private:
  static bool is_kept(const Leaf& leaf, int64_t i, int64_t j) {
    const auto at = static_cast<size_t>(i * leaf.cols + j);
    return leaf.mask.empty() ? leaf.values[at] != 0 : leaf.mask[at] != 0;
  }

  Buffer starts_;   // [rows + 1] int64
  Buffer columns_;  // [kept] ascending in a row
  Buffer values_;   // [kept]
  TiledActivations activations_;
  std::shared_ptr<Buffer> sums_;  // [threads × kRowBlock × csr_tokens]
};

}  // namespace

Kernel csr_kernel() {
  Kernel kernel;
  kernel.name = "csr";
  kernel.device = "cpu";
  kernel.help = "pruned (unstructured, N:M): row pointers, column indices of 16 (32) bits and float32 values";
  kernel.isa = cpu_ops().name;
  kernel.preference = 0;  // when named: a peer to compare with
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::unstructured && leaf.pattern.kind != PatternKind::n_of_m)
      return "multiplies weights pruned without pattern or N:M";
    return native_refusal(leaf);
  };
  kernel.packed_bytes = [](const Scheme::LeafBytes& leaf) {
    return leaf.kept * (leaf.shape.in_features <= kShortColumns ? 6 : 8) + leaf.shape.out_features * 8;
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    if (leaf.cols <= kShortColumns) return std::make_unique<CsrLayer<uint16_t>>(leaf, options);
    return std::make_unique<CsrLayer<uint32_t>>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// W8A8: int8 weights times int8 activations, exact in int32; the scales of row and token come last.
#include <cstring>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int8Layer final : public CpuLayer {
 public:
  Int8Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kColumnUnit),
        codes_(leaf.rows * padded_, threads_),
        scales_(leaf.rows * 4),
        activations_(cols_, padded_, options),
        sums_(make_scratch(options, threads_ * kMaxBlockRows * kMaxBlockTokens * 4, threads_)),
        totals_(make_scratch(options,
                             padded_ > kExactColumns ? threads_ * kMaxBlockRows * kMaxBlockTokens * 8 : 0,
                             threads_)) {
    for (int64_t i = 0; i < rows_ && cols_ > 0; ++i) {
      std::memcpy(codes_.as<int8_t>() + i * padded_, leaf.codes.data() + i * cols_,
                  static_cast<size_t>(cols_));
      scales_.as<float>()[i] = leaf.scales[static_cast<size_t>(i)];
    }
    weight_bytes_ = codes_.bytes() + scales_.bytes();
  }

 protected:
  static constexpr int64_t kColumnUnit = 32;
  // int32 holds 65536 products of ±127·±127; beyond that sums move to int64.
  static constexpr int64_t kExactColumns = 65536;
  // Columns at a time: 8 rows and a few tokens stay in the first-level cache. Divides kExactColumns.
  static constexpr int64_t kChunk = 1024;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(ops_, x, tokens, part, parts);
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int part) override {
    auto* sums = sums_->as<int32_t>() + part * kMaxBlockRows * kMaxBlockTokens;
    auto* totals =
        totals_->bytes() > 0 ? totals_->as<int64_t>() + part * kMaxBlockRows * kMaxBlockTokens : nullptr;
    const int16_t* input = activations_.codes();
    const float* row_scales = scales_.as<float>();
    // One token reads each weight once: no chunks then, rows stream from end to end.
    const int64_t chunk = tokens == 1 ? kExactColumns : kChunk;
    if (padded_ == 0) std::fill(sums, sums + kMaxBlockRows * kMaxBlockTokens, 0);
    auto visit = [&](const Tile& tile) {
      const int64_t offset = tile.row - tile.block_row;
      const bool starts = tile.col % kExactColumns == 0;
      ops_.dot_i8(codes_.as<int8_t>() + tile.row * padded_ + tile.col, padded_, tile.rows,
                  input + tile.token * padded_ + tile.col, padded_, tile.tokens, tile.cols, sums + offset,
                  kMaxBlockRows, !starts);
      const int64_t end = tile.col + tile.cols;
      if (totals == nullptr || (end % kExactColumns != 0 && end != padded_)) return;
      for (int64_t t = 0; t < tile.tokens; ++t) {
        for (int64_t r = offset; r < offset + tile.rows; ++r) {
          int64_t& total = totals[t * kMaxBlockRows + r];
          total = (end <= kExactColumns ? 0 : total) + sums[t * kMaxBlockRows + r];
        }
      }
    };
    auto finish = [&](int64_t row, int64_t count, int64_t token, int64_t block_tokens) {
      for (int64_t t = 0; t < block_tokens; ++t) {
        const float scale = activations_.scales()[token + t];
        float* out = y + (token + t) * rows_ + row;
        for (int64_t r = 0; r < count; ++r) {
          const int64_t at = t * kMaxBlockRows + r;
          const float sum = totals != nullptr ? static_cast<float>(totals[at]) : static_cast<float>(sums[at]);
          out[r] = sum * row_scales[row + r] * scale;
        }
      }
    };
    for_each_tile(rows, padded_, chunk, tokens, visit, finish);
  }

  bool integer() const override { return true; }

 private:
  Buffer codes_;   // [rows × padded] int8
  Buffer scales_;  // [rows]
  QuantizedActivations activations_;
  std::shared_ptr<Buffer> sums_;    // [threads × kMaxBlockTokens × kMaxBlockRows] int32
  std::shared_ptr<Buffer> totals_;  // the same in int64, where K is too long for int32
};

}  // namespace

Kernel native_int8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "W8A8: int8 weights times int8 activations, exact in int32";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 8, ActivationRule::int8_per_token); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    if (!leaf.per_channel) return "multiplies one scale per output channel, not groups";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

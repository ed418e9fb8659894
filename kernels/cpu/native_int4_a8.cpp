// W4A8: 4-bit weights times int8 activations, exact in integers within a group, scaled in float32 between
// groups.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/int4_pack.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int4A8Layer final : public CpuLayer {
 public:
  Int4A8Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, kColumnUnit),
        packed_(leaf, padded_, ops_.int4_i16_lanes, 16, threads_),
        activations_(cols_, padded_, options),
        scratch_(make_scratch(options, threads_ * kMaxGroupRows * kChunk * 2, threads_)) {
    weight_bytes_ = packed_.bytes();
  }

 protected:
  static constexpr int64_t kColumnUnit = 128;  // a multiple of every instruction set's block
  static constexpr int64_t kChunk =
      512;  // whole blocks and groups; 8 expanded rows fit the first-level cache

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(ops_, x, tokens, part, parts);
  }

  void compute(const float*, float* y, int64_t tokens, Range rows, int part) override {
    const int16_t* input = activations_.codes();
    auto finish = [&](int64_t row, int64_t count, int64_t token, int64_t block_tokens) {
      for (int64_t t = token; t < token + block_tokens; ++t)
        for (int64_t i = row; i < row + count; ++i) y[t * rows_ + i] *= activations_.scales()[t];
    };
    if (padded_ == 0) {
      for (int64_t t = 0; t < tokens; ++t)
        std::fill(y + t * rows_ + rows.begin, y + t * rows_ + rows.end, 0.0f);
      return;
    }
    if (tokens == 1) {
      ops_.dot_int4_i16(packed_.row_codes(rows.begin), packed_.row_bytes, packed_.row_scales(rows.begin),
                        packed_.groups, packed_.group, rows.size(), input, padded_, y + rows.begin);
      finish(rows.begin, rows.size(), 0, 1);
      return;
    }
    auto* scratch = scratch_->as<int16_t>() + part * kMaxGroupRows * kChunk;
    for_each_tile(
        rows, padded_, kChunk, tokens,
        [&](const Tile& tile) {
          for (int64_t r = 0; r < tile.rows; ++r)
            ops_.expand_int4_i16(packed_.row_codes(tile.row + r) + tile.col / 2, tile.cols,
                                 scratch + r * kChunk);
          ops_.dot_i16_grouped(scratch, kChunk, packed_.row_scales(tile.row) + tile.col / packed_.group,
                               packed_.groups, packed_.group, tile.rows,
                               input + tile.token * padded_ + tile.col, padded_, tile.tokens, tile.cols,
                               y + tile.token * rows_ + tile.row, rows_, tile.col > 0);
        },
        finish);
  }

  bool integer() const override { return true; }

 private:
  Int4Packed packed_;
  QuantizedActivations activations_;
  std::shared_ptr<Buffer> scratch_;  // [threads × kMaxGroupRows × kChunk] int16
};

}  // namespace

Kernel native_int4_a8_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "W4A8: 4-bit weights times int8 activations, exact in int32 within a group";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) { return int4_refusal(leaf, ActivationRule::int8_per_token); };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int4A8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

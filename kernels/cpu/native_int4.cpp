// 4-bit weights, float32 activations: nibbles become float32 in registers, each group's sum takes its scale.
#include "kernels/cpu/float_layer.hpp"
#include "kernels/cpu/int4_pack.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int4Weights {
 public:
  // A multiple of every instruction set's block (32, 64 or 128).
  static constexpr int64_t kColumnUnit = 128;
  struct Cursor {};

  Int4Weights(const Leaf& leaf, const LayerOptions& options, const CpuOps& ops, int64_t padded)
      : packed_(leaf, padded, ops.int4_f32_lanes, 32, std::max(options.threads, 1)),
        macs_(static_cast<double>(leaf.rows) * static_cast<double>(leaf.cols)) {}

  int64_t bytes() const { return packed_.bytes(); }
  double macs() const { return macs_; }

  void gemv(const CpuOps& ops, Range rows, const float* x, float* y) const {
    ops.dot_int4_f32(packed_.row_codes(rows.begin), packed_.row_bytes, packed_.row_scales(rows.begin),
                     packed_.groups, packed_.group, rows.size(), x, packed_.padded, y + rows.begin);
  }
  Cursor seek(int64_t) const { return {}; }
  // A chunk's 512 columns are whole blocks and groups.
  const float* tile(const CpuOps& ops, Cursor*, const Tile& tile, float* scratch, int64_t* stride) const {
    for (int64_t r = 0; r < tile.rows; ++r)
      ops.expand_int4_f32(packed_.row_codes(tile.row + r) + tile.col / 2,
                          packed_.row_scales(tile.row + r) + tile.col / packed_.group, packed_.group,
                          tile.cols, scratch + r * *stride);
    return scratch;
  }

 private:
  Int4Packed packed_;
  double macs_;
};

}  // namespace

Kernel native_int4_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "4-bit weights times float32 activations (weight-only)";
  kernel.isa = cpu_ops().name;
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) { return int4_refusal(leaf, ActivationRule::f32); };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<FloatLayer<Int4Weights>>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// 4-bit weights, float32 activations: nibbles become float32 in registers, each group's sum takes its scale.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/int4_pack.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class Int4Layer final : public CpuLayer {
 public:
  Int4Layer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, leaf.group),
        packed_(leaf, padded_, ops_.panel_rows, Int4Order::columns, threads_),
        activations_(cols_, padded_, ops_.tokens_f32, options) {
    row_unit_ = ops_.panel_rows;
    weight_bytes_ = packed_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 512;  // whole groups

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    for_each_panel_tile(
        rows, ops_.panel_rows, padded_, kColumnBlock, tokens, ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some) {
          ops_.panel_i4_f32(packed_.panel_codes(row, col), packed_.panel_bytes,
                            packed_.panel_scales(row, col), packed_.scale_stride, packed_.group, count,
                            activations_.data(x, token, some, col), some, cols, y + token * rows_ + row,
                            rows_, col > 0);
        });
  }

 private:
  Int4Packed packed_;
  TiledActivations activations_;
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
    return std::make_unique<Int4Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

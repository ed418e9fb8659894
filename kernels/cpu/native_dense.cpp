// Dense float32 or fp8 weights, rows side by side in panels; products and sums in float32. A BLAS of its
// processor's generation may beat it at many tokens, so a run times both.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class DenseLayer final : public CpuLayer {
 public:
  DenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        bytes_(leaf.fp8 ? 1 : 4),
        product_(leaf.fp8 ? ops_.panel_e4m3 : ops_.panel_f32),
        weights_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * cols_ * bytes_)),
        scales_(leaf.fp8 ? rows_ * 4 : 0),
        activations_(cols_, cols_, ops_.tokens_f32, options) {
    row_unit_ = ops_.panel_rows;
    if (leaf.fp8) {
      pack(leaf.codes.data());
      for (int64_t i = 0; i < rows_ && cols_ > 0; ++i)
        scales_.as<float>()[i] = leaf.scales[static_cast<size_t>(i)] * 0x1p8f;
    } else {
      pack(leaf.values.data());
    }
    weight_bytes_ = weights_.bytes() + scales_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 512;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    for_each_panel_tile(
        rows, ops_.panel_rows, cols_, kColumnBlock, tokens, ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some) {
          product_(weights_.as<uint8_t>() + (row * cols_ + col * ops_.panel_rows) * bytes_,
                   cols_ * ops_.panel_rows * bytes_, count, activations_.data(x, token, some, col), some,
                   cols, y + token * rows_ + row, rows_, col > 0);
        });
    if (scales_.bytes() == 0) return;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = rows.begin; r < rows.end; ++r) y[t * rows_ + r] *= scales_.as<float>()[r];
  }

 private:
  // weights_[panel][column][row] = from[row][column]
  template <class Weight>
  void pack(const Weight* from) {
    const int64_t unit = ops_.panel_rows;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        Weight* panel = weights_.as<Weight>() + first * cols_;
        std::fill(panel, panel + unit * cols_, Weight(0));
        const int64_t some = std::min(unit, rows_ - first);
        for (int64_t r = 0; r < some; ++r) {
          const Weight* row = from + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; ++i) panel[i * unit + r] = row[i];
        }
      }
    });
  }

  int64_t bytes_;  // of a weight
  CpuOps::PanelFloat product_;
  Buffer weights_;  // [panels × cols × panel_rows]
  Buffer scales_;   // [rows], of fp8
  TiledActivations activations_;
};

}  // namespace

Kernel native_dense_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "dense float32 or fp8, rows side by side in panels";
  kernel.isa = cpu_ops().name;
  kernel.preference = kernel.isa == "portable" ? 5 : 20;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (!leaf.fp8)
      if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.activation != ActivationRule::f32) return "multiplies float32 activations only";
    if (leaf.fp8 && !leaf.per_channel) return "multiplies one scale per output channel, not groups";
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<DenseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// Dense float32 weights, rows side by side in panels. A BLAS of its processor's generation may beat it at
// many tokens, so a run times both.
#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class DenseLayer final : public CpuLayer {
 public:
  DenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        weights_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * cols_ * 4)),
        activations_(cols_, cols_, ops_.tokens_f32, options) {
    row_unit_ = ops_.panel_rows;
    const int64_t unit = ops_.panel_rows;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        float* panel = weights_.as<float>() + first * cols_;
        std::fill(panel, panel + unit * cols_, 0.0f);
        for (int64_t r = 0; r < std::min(unit, rows_ - first); ++r) {
          const float* row = leaf.values.data() + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; ++i) panel[i * unit + r] = row[i];
        }
      }
    });
    weight_bytes_ = weights_.bytes();
  }

 protected:
  static constexpr int64_t kColumnBlock = 1024;

  void prepare(const float* x, int64_t tokens, int part, int parts) override {
    activations_.prepare(x, tokens, part, parts);
  }

  void compute(const float* x, float* y, int64_t tokens, Range rows, int) override {
    if (cols_ == 0) return fill_zero(y, rows_, tokens, rows);
    for_each_panel_tile(
        rows, ops_.panel_rows, cols_, kColumnBlock, tokens, ops_.tokens_f32, kOpenNothing,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some,
            const NextBlock& next) {
          const int64_t panel_bytes = cols_ * ops_.panel_rows * 4;
          ops_.panel_f32(panel(row, col), panel_bytes, count, activations_.data(x, token, some, col), some,
                         cols, y + token * rows_ + row, rows_, col > 0,
                         next.ahead(panel(next.row, next.col), panel_bytes, ops_.panel_rows * 4));
        },
        2, order_f32(tokens, cols_));
  }

 private:
  // Of the panel that begins with `row`, from column `col` on.
  const uint8_t* panel(int64_t row, int64_t col) const {
    return weights_.as<uint8_t>() + (row * cols_ + col * ops_.panel_rows) * 4;
  }

  Buffer weights_;  // [panels × cols × panel_rows]
  TiledActivations activations_;
};

}  // namespace

Kernel native_dense_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "dense float32, rows side by side in panels";
  kernel.isa = cpu_ops().name;
  kernel.preference = kernel.isa == "portable" ? 5 : 20;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<DenseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

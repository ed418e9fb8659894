// Dense float32, bfloat16 or fp8 weights, rows side by side in panels; products and sums in float32,
// activations too unless the leaf wants them rounded to bfloat16. A BLAS of its processor's generation may
// beat it at many tokens, so a run times both.
#include <fmt/format.h>

#include <bit>

#include "kernels/cpu/cpu_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

// The formats that the panels know.
struct Format {
  int64_t bytes;  // of a weight
  CpuOps::PanelFloat product;
};
Format format_of(const Leaf& leaf, const CpuOps& ops) {
  if (leaf.fp8) return {1, ops.panel_e4m3};
  return leaf.bits == 16 ? Format{2, ops.panel_b16} : Format{4, ops.panel_f32};
}

class DenseLayer final : public CpuLayer {
 public:
  DenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CpuLayer(leaf, options, 1),
        format_(format_of(leaf, ops_)),
        weights_(Buffer::untouched(round_up(rows_, ops_.panel_rows) * cols_ * format_.bytes)),
        scales_(leaf.fp8 ? rows_ * 4 : 0),
        activations_(cols_, cols_, ops_.tokens_f32, options, leaf.activation) {
    row_unit_ = ops_.panel_rows;
    if (leaf.fp8) {
      pack(leaf.codes.data(), [](int8_t code) { return code; });
      for (int64_t i = 0; i < rows_ && cols_ > 0; ++i)
        scales_.as<float>()[i] = leaf.scales[static_cast<size_t>(i)] * 0x1p8f;
    } else if (leaf.bits == 16) {
      pack(leaf.values.data(),
           [](float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); });
    } else {
      pack(leaf.values.data(), [](float value) { return value; });
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
    const int64_t bytes = format_.bytes;
    for_each_panel_tile(
        rows, ops_.panel_rows, cols_, kColumnBlock, tokens, ops_.tokens_f32,
        [&](int64_t row, int64_t count, int64_t col, int64_t cols, int64_t token, int64_t some) {
          format_.product(weights_.as<uint8_t>() + (row * cols_ + col * ops_.panel_rows) * bytes,
                          cols_ * ops_.panel_rows * bytes, count, activations_.data(x, token, some, col),
                          some, cols, y + token * rows_ + row, rows_, col > 0);
        });
    if (scales_.bytes() == 0) return;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = rows.begin; r < rows.end; ++r) y[t * rows_ + r] *= scales_.as<float>()[r];
  }

 private:
  // weights_[panel][column][row] = convert(from[row][column])
  template <class From, class Convert>
  void pack(const From* from, Convert convert) {
    using To = decltype(convert(From()));
    const int64_t unit = ops_.panel_rows;
    pack_rows(rows_, unit, threads_, [&](Range rows) {
      for (int64_t first = rows.begin; first < rows.end; first += unit) {
        To* panel = weights_.as<To>() + first * cols_;
        std::fill(panel, panel + unit * cols_, To(0));
        const int64_t some = std::min(unit, rows_ - first);
        for (int64_t r = 0; r < some; ++r) {
          const From* row = from + (first + r) * cols_;
          for (int64_t i = 0; i < cols_; ++i) panel[i * unit + r] = convert(row[i]);
        }
      }
    });
  }

  Format format_;
  Buffer weights_;  // [panels × cols × panel_rows]
  Buffer scales_;   // [rows], of fp8
  TiledActivations activations_;
};

}  // namespace

Kernel native_dense_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "dense float32, bfloat16 or fp8, rows side by side in panels";
  kernel.isa = cpu_ops().name;
  kernel.preference = kernel.isa == "portable" ? 5 : 20;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (leaf.bits != 16 && !leaf.fp8)
      if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.activation != ActivationRule::f32 &&
        (leaf.bits != 16 || leaf.activation != ActivationRule::bf16))
      return fmt::format("multiplies f32 activations, and bf16 ones by bf16 weights, not {}",
                         name_of(leaf.activation));
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

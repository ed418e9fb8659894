// Dense float32, rows as they are. A BLAS of its processor's generation may beat it at many tokens, so a run
// times both.
#include <cstring>

#include "kernels/cpu/float_layer.hpp"
#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

class DenseWeights {
 public:
  static constexpr int64_t kColumnUnit = 32;
  struct Cursor {};

  DenseWeights(const Leaf& leaf, const LayerOptions& options, const CpuOps&, int64_t padded)
      : rows_(leaf.rows), padded_(padded), data_(leaf.rows * padded * 4, options.threads) {
    for (int64_t i = 0; i < leaf.rows && leaf.cols > 0; ++i)
      std::memcpy(data_.as<float>() + i * padded, leaf.values.data() + i * leaf.cols,
                  static_cast<size_t>(leaf.cols) * 4);
    macs_ = static_cast<double>(leaf.rows) * static_cast<double>(leaf.cols);
  }

  int64_t bytes() const { return rows_ * padded_ * 4; }
  double macs() const { return macs_; }

  void gemv(const CpuOps& ops, Range rows, const float* x, float* y) const {
    ops.dot_f32(data_.as<float>() + rows.begin * padded_, padded_, rows.size(), x, padded_, 1, padded_,
                y + rows.begin, rows_, false);
  }
  Cursor seek(int64_t) const { return {}; }
  const float* tile(const CpuOps&, Cursor*, const Tile& tile, float*, int64_t* stride) const {
    *stride = padded_;
    return data_.as<float>() + tile.row * padded_ + tile.col;
  }

 private:
  int64_t rows_, padded_;
  double macs_ = 0;
  Buffer data_;
};

}  // namespace

Kernel native_dense_kernel() {
  Kernel kernel;
  kernel.name = "native";
  kernel.device = "cpu";
  kernel.help = "dense float32, rows as they are";
  kernel.isa = cpu_ops().name;
  kernel.preference = kernel.isa == "portable" ? 5 : 20;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (std::string why = kind_refusal(leaf, 32, ActivationRule::f32); !why.empty()) return why;
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    return native_refusal(leaf);
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<FloatLayer<DenseWeights>>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

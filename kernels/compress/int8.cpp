// int8: W8A8. Weights symmetric per output channel, activations per token.
//
//   scale_i = max_j |w_ij| / 127,  code_ij = clamp(rint(w_ij · 127 / max_j |w_ij|), ±127),  w_ij ≈ scale_i ·
//   code_ij
#include <algorithm>

#include "kernels/activations.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

class Int8 final : public Scheme {
 public:
  std::string name() const override { return "int8"; }
  std::vector<std::pair<std::string, Value>> describe() const override {
    return {{"method", std::string("rtn")}, {"activations", std::string("int8")}};
  }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features + 4);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override { return estimated_weight_bytes(shape); }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    return {{estimated_canonical_bytes(shape), estimated_weight_bytes(shape), shape.in_features * 2}};
  }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext&) const override {
    check_rows(slab);
    Leaf leaf = leaf_of(slab);
    leaf.bits = 8;
    leaf.group = leaf.cols;
    leaf.per_channel = true;
    leaf.activation = ActivationRule::int8_per_token;
    leaf.codes.resize(static_cast<size_t>(leaf.rows * leaf.cols));
    leaf.scales.resize(static_cast<size_t>(leaf.cols > 0 ? leaf.rows : 0));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < static_cast<int64_t>(leaf.scales.size()); ++i) {
      const float* w = slab.rows.row(i);
      const float amax = largest_magnitude(w, leaf.cols);
      // A row this small counts as zero: 127/amax would overflow. Codes and scale stay 0.
      if (amax < kSmallestActivation) continue;
      const float inverse = 127.0f / amax;
      int8_t* codes = leaf.codes.data() + i * leaf.cols;
      for (int64_t j = 0; j < leaf.cols; ++j)
        codes[j] = static_cast<int8_t>(std::clamp(round_even(w[j] * inverse), -127.0f, 127.0f));
      leaf.scales[static_cast<size_t>(i)] = amax / 127.0f;
    }
    return Canonical{{std::move(leaf)}};
  }
};

}  // namespace

SchemeType int8_scheme() {
  SchemeType type;
  type.type = "int8";
  type.help = "W8A8: weights symmetric per output channel, activations per token";
  type.make = [](const Params&, Shape, const Registry&) -> std::unique_ptr<Scheme> {
    return std::make_unique<Int8>();
  };
  return type;
}

}  // namespace lamina

// int8: weights symmetric per output channel; activations per token (W8A8), or left as they are.
//
//   scale_i = max_j |w_ij| / 127,  code_ij = clamp(rint(w_ij · 127 / max_j |w_ij|), ±127),  w_ij ≈ scale_i ·
//   code_ij
#include <algorithm>
#include <utility>

#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kActivations{.name = "activations",
                           .help = "int8: W8A8, activations per token; f32: weights only are quantized",
                           .fallback = std::string("int8"),
                           .choices = {"f32", "int8"}};

class Int8 final : public Scheme {
 public:
  explicit Int8(std::string activations) : activations_(std::move(activations)) {}

  std::string name() const override { return activations_ == "int8" ? "int8" : "int8-a32"; }
  std::vector<std::pair<std::string, Value>> describe() const override {
    return {{"method", std::string("rtn")}, {"activations", activations_}};
  }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features + 4);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override { return estimated_weight_bytes(shape); }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    if (activations_ == "int8") leaves.front().scratch_per_token = 2 * shape.in_features;
    return leaves;
  }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext&) const override {
    check_rows(slab);
    Leaf leaf = quantize_rows(slab, 127.0f, [](float scaled) {
      return static_cast<int8_t>(std::clamp(round_even(scaled), -127.0f, 127.0f));
    });
    if (activations_ == "int8") leaf.activation = ActivationRule::int8_per_token;
    return Canonical{{std::move(leaf)}};
  }

 private:
  std::string activations_;
};

}  // namespace

SchemeType int8_scheme() {
  SchemeType type;
  type.type = "int8";
  type.help = "weights symmetric per output channel, with int8 (W8A8) or float32 (weight-only) activations";
  type.keys = {kActivations};
  type.make = [](const Params& params, Shape, const Registry&) -> std::unique_ptr<Scheme> {
    return std::make_unique<Int8>(params.string(kActivations));
  };
  return type;
}

}  // namespace lamina

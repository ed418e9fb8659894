// fp8: weights as e4m3 floats, symmetric per output channel; activations stay as they are, or become e4m3 per
// token (W8A8).
//
//   scale_i = max_j |w_ij| / 448,  code_ij = e4m3(w_ij · 448 / max_j |w_ij|),  w_ij ≈ scale_i · code_ij
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

const KeySpec kActivations{.name = "activations",
                           .help = "fp8: W8A8, activations per token; f32: weights only are quantized",
                           .fallback = std::string("f32"),
                           .choices = {"f32", "fp8"}};

class Fp8 final : public Scheme {
 public:
  explicit Fp8(std::string activations) : activations_(std::move(activations)) {}

  std::string name() const override { return activations_ == "fp8" ? "fp8-a8" : "fp8"; }
  std::vector<std::pair<std::string, Value>> describe() const override {
    return {{"method", std::string("rtn")}, {"activations", activations_}};
  }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features + 4);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override { return estimated_weight_bytes(shape); }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext&) const override {
    check_rows(slab);
    Leaf leaf = quantize_rows(slab, kLargestE4m3,
                              [](float scaled) { return static_cast<int8_t>(e4m3_of_float(scaled)); });
    leaf.fp8 = true;
    if (activations_ == "fp8") leaf.activation = ActivationRule::fp8_per_token;
    return Canonical{{std::move(leaf)}};
  }

 private:
  std::string activations_;
};

}  // namespace

SchemeType fp8_scheme() {
  SchemeType type;
  type.type = "fp8";
  type.help =
      "weights as e4m3 floats, symmetric per output channel, by activations as they are or e4m3 (W8A8)";
  type.keys = {kActivations};
  type.make = [](const Params& params, Shape, const Registry&) -> std::unique_ptr<Scheme> {
    return std::make_unique<Fp8>(params.string(kActivations));
  };
  return type;
}

}  // namespace lamina

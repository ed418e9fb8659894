// fp8: weights as e4m3 floats, symmetric per output channel; activations stay as they are, or become e4m3 per
// token (W8A8).
//
//   scale_i = max_j |w_ij| / 448,  code_ij = e4m3(w_ij · 448 / max_j |w_ij|),  w_ij ≈ scale_i · code_ij
#include <cmath>
#include <cstring>

#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"
#include "kernels/small_floats.hpp"
#include "kernels/wide.hpp"

namespace lamina {
namespace {

const KeySpec kActivations{.name = "activations",
                           .help = "fp8: W8A8, activations per token; f32: weights only are quantized",
                           .fallback = std::string("f32"),
                           .choices = {"f32", "fp8"}};

LAMINA_WIDE void encode(const float* w, int64_t count, float factor, int8_t* codes) {
  for (int64_t j = 0; j < count; ++j) codes[j] = static_cast<int8_t>(e4m3_of_float(w[j] * factor));
}

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
    check_place(slab);
    Leaf leaf = leaf_of(slab);
    leaf.bits = 8;
    leaf.fp8 = true;
    leaf.group = leaf.cols;
    leaf.per_channel = true;
    leaf.codes.resize(static_cast<size_t>(leaf.rows * leaf.cols));
    leaf.scales.resize(static_cast<size_t>(leaf.cols > 0 ? leaf.rows : 0));
    bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
    for (int64_t i = 0; i < static_cast<int64_t>(leaf.scales.size()); ++i) {
      const float* w = slab.rows.row(i);
      const float amax = largest_magnitude(w, leaf.cols);
      finite = finite && std::isfinite(amax);
      int8_t* codes = leaf.codes.data() + i * leaf.cols;
      // A row this small counts as zero: largest/amax could overflow. The scale stays 0.
      if (amax < kSmallestActivation) {
        std::memset(codes, 0, static_cast<size_t>(leaf.cols));
        continue;
      }
      encode(w, leaf.cols, kLargestE4m3 / amax, codes);
      leaf.scales[static_cast<size_t>(i)] = amax / kLargestE4m3;
    }
    if (!finite) check_rows(slab);
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

// int4: 4-bit codes −8..7 in groups along K, with float32 or int8 activations.
//
//   scale_ig = e / −8, where e is the group's weight of largest magnitude, sign included
//   code_ij = clamp(rint(w_ij / scale_ig), −8, 7),  w_ij ≈ scale_ig · code_ij
//
// The extreme weight falls on −8 exactly and all 16 codes are in use; the scale is negative where the extreme
// is positive. The step is amax/8 instead of amax/7, at the price of clipping what lies on the other side
// beyond 7/8 of the extreme (the choice of ggml's Q4_0).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/activations.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kGroup{.name = "group",
                     .help = "columns of W that share a scale: 32, 64 or 128; divides in_features",
                     .fallback = int64_t{128},
                     .min = 32,
                     .max = 128};
const KeySpec kActivations{.name = "activations",
                           .help = "f32: weights only are quantized; int8: W4A8, activations per token",
                           .fallback = std::string("f32"),
                           .choices = {"f32", "int8"}};

void quantize_group(const float* w, int64_t group, int8_t* codes, float* scale) {
  const float amax = largest_magnitude(w, group);
  if (amax < kSmallestActivation) return;  // all zeros, as they were made
  float extreme = amax;
  for (int64_t j = 0; j < group; ++j) {
    if (std::fabs(w[j]) == amax) {
      extreme = w[j];
      break;
    }
  }
  const float inverse = -8.0f / extreme;
  for (int64_t j = 0; j < group; ++j)
    codes[j] = static_cast<int8_t>(std::clamp(round_even(w[j] * inverse), -8.0f, 7.0f));
  *scale = extreme / -8.0f;
}

class Int4 final : public Scheme {
 public:
  Int4(int64_t group, bool int8_activations) : group_(group), int8_activations_(int8_activations) {}

  std::string name() const override {
    return fmt::format("int4-g{}{}", group_, int8_activations_ ? "-a8" : "");
  }
  std::vector<std::pair<std::string, Value>> describe() const override {
    return {{"group", group_},
            {"method", std::string("rtn")},
            {"activations", std::string(int8_activations_ ? "int8" : "f32")}};
  }
  CutUnits units() const override { return {.rows = 1, .cols = group_}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features / 2 + shape.in_features / group_ * 4);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features + shape.in_features / group_ * 4);
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    if (int8_activations_) leaves.front().scratch_per_token = 2 * shape.in_features;
    return leaves;
  }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext&) const override {
    check_rows(slab);
    if (slab.rows.cols % group_ != 0)
      throw std::invalid_argument(
          fmt::format("int4: expected columns in multiples of group {}, found {}", group_, slab.rows.cols));
    Leaf leaf = leaf_of(slab);
    leaf.bits = 4;
    leaf.group = group_;
    leaf.activation = int8_activations_ ? ActivationRule::int8_per_token : ActivationRule::f32;
    leaf.codes.resize(static_cast<size_t>(leaf.rows * leaf.cols));
    leaf.scales.resize(static_cast<size_t>(leaf.rows * leaf.groups()));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < leaf.rows; ++i) {
      for (int64_t g = 0; g < leaf.groups(); ++g)
        quantize_group(slab.rows.row(i) + g * group_, group_, leaf.codes.data() + i * leaf.cols + g * group_,
                       leaf.scales.data() + i * leaf.groups() + g);
    }
    return Canonical{{std::move(leaf)}};
  }

 private:
  int64_t group_;
  bool int8_activations_;
};

}  // namespace

SchemeType int4_scheme() {
  SchemeType type;
  type.type = "int4";
  type.help = "4-bit weights in groups along K, with float32 (weight-only) or int8 (W4A8) activations";
  type.keys = {kGroup, kActivations};
  type.make = [](const Params& params, Shape shape, const Registry&) -> std::unique_ptr<Scheme> {
    const int64_t group = params.integer(kGroup);
    const bool int8_activations = params.string(kActivations) == "int8";
    if (group != 32 && group != 64 && group != 128) {
      // Out of the whole range is reported already.
      if (group > 32 && group < 128)
        params.problem("group", fmt::format("expected 32, 64 or 128, found {}", group));
      return nullptr;
    }
    if (shape.in_features % group != 0) {
      params.problem("group",
                     fmt::format("expected a divisor of in_features {}, found {}", shape.in_features, group));
      return nullptr;
    }
    return std::make_unique<Int4>(group, int8_activations);
  };
  return type;
}

}  // namespace lamina

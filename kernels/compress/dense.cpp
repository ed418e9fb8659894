// dense: W as it is, in float32 or rounded to bfloat16 or float16; bfloat16 with activations of its own too.
#include <fmt/format.h>

#include <algorithm>

#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

const KeySpec kDtype{.name = "dtype",
                     .help = "how weights are stored",
                     .fallback = std::string("f32"),
                     .choices = {"f32", "bf16", "fp16"}};
const KeySpec kActivations{.name = "activations",
                           .help = "bf16: activations are rounded to bfloat16 too; needs dtype bf16",
                           .fallback = std::string("f32"),
                           .choices = {"f32", "bf16"}};

class Dense final : public Scheme {
 public:
  Dense(std::string dtype, std::string activations)
      : dtype_(std::move(dtype)), activations_(std::move(activations)) {}

  std::string name() const override { return "dense-" + dtype_ + (activations_ == "bf16" ? "-a16" : ""); }
  std::vector<std::pair<std::string, Value>> describe() const override {
    return {{"dtype", dtype_}, {"activations", activations_}};
  }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return (dtype_ == "f32" ? 4 : 2) * shape.out_features * shape.in_features;
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return 4 * shape.out_features * shape.in_features;
  }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext&) const override {
    check_rows(slab);
    Leaf leaf = leaf_of(slab);
    leaf.values = slab.rows.data;
    if (dtype_ == "bf16") {
      leaf.bits = 16;
      std::transform(leaf.values.begin(), leaf.values.end(), leaf.values.begin(), to_bfloat16);
    }
    if (dtype_ == "fp16") {
      leaf.bits = 16;
      leaf.fp16 = true;
      std::transform(leaf.values.begin(), leaf.values.end(), leaf.values.begin(), to_float16);
    }
    if (activations_ == "bf16") leaf.activation = ActivationRule::bf16;
    return Canonical{{std::move(leaf)}};
  }

 private:
  std::string dtype_, activations_;
};

}  // namespace

SchemeType dense_scheme() {
  SchemeType type;
  type.type = "dense";
  type.help = "W as it is (f32: the baseline of every other scheme), or rounded to bf16 or fp16";
  type.keys = {kDtype, kActivations};
  type.make = [](const Params& params, Shape, const Registry&) -> std::unique_ptr<Scheme> {
    const std::string dtype = params.string(kDtype), activations = params.string(kActivations);
    if (activations == "bf16" && dtype != "bf16") {
      params.problem("activations", fmt::format("expected \"f32\" with dtype \"{}\", found \"bf16\"", dtype));
      return nullptr;
    }
    return std::make_unique<Dense>(dtype, activations);
  };
  return type;
}

}  // namespace lamina

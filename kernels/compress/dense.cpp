// dense: W as it is, in float32 or rounded to bfloat16.
#include <fmt/format.h>

#include <algorithm>

#include "kernels/compress/float8.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kDtype{.name = "dtype",
                     .help = "how weights are stored",
                     .fallback = std::string("f32"),
                     .choices = {"f32", "bf16"}};

class Dense final : public Scheme {
 public:
  explicit Dense(std::string dtype) : dtype_(std::move(dtype)) {}

  std::string name() const override { return "dense-" + dtype_; }
  std::vector<std::pair<std::string, Value>> describe() const override { return {{"dtype", dtype_}}; }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return (dtype_ == "bf16" ? 2 : 4) * shape.out_features * shape.in_features;
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
    return Canonical{{std::move(leaf)}};
  }

 private:
  std::string dtype_;
};

}  // namespace

SchemeType dense_scheme() {
  SchemeType type;
  type.type = "dense";
  type.help = "W as it is (f32: the baseline of every other scheme), or rounded to bf16";
  type.keys = {kDtype};
  type.make = [](const Params& params, Shape, const Registry&) -> std::unique_ptr<Scheme> {
    return std::make_unique<Dense>(params.string(kDtype));
  };
  return type;
}

}  // namespace lamina

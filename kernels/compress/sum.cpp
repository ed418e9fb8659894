// sum: W ≈ Q + U·V, a scheme of one matrix and the low rank of what it loses. Q is made as ever, then U and V
// are the factors of W − Q̂, by whatever rule and norm `correction` asks for: whitened by the calibration
// Gram, they take back most of what Q loses of the outputs (LQER: Zhang, Cheng, Constantinides, Zhao 2024).
// Both multiply the layer's input, and their outputs are added.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/compress/compensate.hpp"
#include "kernels/compress/nested.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"
#include "kernels/registry.hpp"

namespace lamina {
namespace {

const KeySpec kBase{.name = "base", .help = "Q: a quantized or pruned scheme of one matrix"};
const KeySpec kCorrection{.name = "correction",
                          .help = "U·V: a lowrank scheme, of what the base loses of the weights"};

class Sum final : public Scheme {
 public:
  Sum(std::unique_ptr<Scheme> base, std::unique_ptr<Scheme> correction)
      : base_(std::move(base)), correction_(std::move(correction)) {}

  std::string name() const override { return "sum-" + base_->name() + "+" + correction_->name(); }
  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {{kBase.name, base_->name()}};
    const auto add = [&](const Scheme& part) {
      for (auto& [own, value] : part.describe()) {
        const bool known = std::any_of(keys.begin(), keys.end(),
                                       [&, key = own](const auto& each) { return each.first == key; });
        if (!known) keys.emplace_back(own, value);
      }
    };
    add(*base_);
    keys.emplace_back(kCorrection.name, correction_->name());
    add(*correction_);
    return keys;
  }
  CutUnits units() const override {
    const CutUnits base = base_->units(), factors = correction_->units();
    return {.rows = std::lcm(base.rows, factors.rows), .cols = std::lcm(base.cols, factors.cols)};
  }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return base_->estimated_weight_bytes(shape) + correction_->estimated_weight_bytes(shape);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return base_->estimated_canonical_bytes(shape) + correction_->estimated_canonical_bytes(shape);
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = base_->estimated_leaves(shape);
    for (LeafBytes& leaf : correction_->estimated_leaves(shape)) leaves.push_back(std::move(leaf));
    return leaves;
  }
  int64_t estimated_compress_bytes(Shape shape, int64_t ranks) const override {
    return std::max(base_->estimated_compress_bytes(shape, ranks), rest_bytes(shape, ranks));
  }
  int64_t estimated_factor_bytes(Shape shape, int64_t ranks) const override {
    return rest_bytes(shape, ranks);
  }
  int64_t calibration_tokens() const override {
    return std::max(base_->calibration_tokens(), correction_->calibration_tokens());
  }
  bool takes_gram() const override { return base_->takes_gram(); }
  int64_t largest_rank() const override { return correction_->largest_rank(); }
  FactorRequest factor_request() const override { return correction_->factor_request(); }
  double estimated_macs(Shape shape) const override {
    return base_->estimated_macs(shape) + correction_->estimated_macs(shape);
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    Canonical sum = base_->compress(slab, context);
    const Leaf& base = sum.leaves.front();
    Matrix<float> rest(slab.rows.rows, slab.rows.cols);
#pragma omp parallel
    {
      std::vector<double> kept(static_cast<size_t>(rest.cols));
#pragma omp for schedule(static)
      for (int64_t i = 0; i < rest.rows; ++i) {
        dequantize_row(base, i, kept.data());
        for (int64_t j = 0; j < rest.cols; ++j)
          rest(i, j) = static_cast<float>(slab.rows(i, j) - kept[static_cast<size_t>(j)]);
      }
    }
    Canonical factors = correction_->compress(
        {.rows = rest, .row_begin = slab.row_begin, .shape = slab.shape, .mask = nullptr, .remainder = true},
        context);
    for (Leaf& leaf : factors.leaves) sum.leaves.push_back(std::move(leaf));
    sum.error = factors.error;
    return sum;
  }

 private:
  // What is left of W while it is factorised.
  static int64_t rest_bytes(Shape shape, int64_t ranks) {
    return 4 * slab_rows_at_most(shape.out_features, ranks) * shape.in_features;
  }

  std::unique_ptr<Scheme> base_, correction_;
};

std::unique_ptr<Scheme> make_sum(const Params& params, Shape shape, const Registry& registry) {
  std::vector<std::string> all_but_lowrank;
  for (const SchemeType& each : registry.schemes())
    if (each.type != "lowrank") all_but_lowrank.push_back(each.type);
  const NestedScheme base(params, kBase, registry, {"dense", "lowrank", "sum"});
  const NestedScheme correction(params, kCorrection, registry, all_but_lowrank);
  std::unique_ptr<Scheme> q = base.ok() ? base.make(shape) : nullptr;
  std::unique_ptr<Scheme> uv = correction.ok() ? correction.make(shape) : nullptr;
  if (base.ok()) base.report_unread();
  if (correction.ok()) correction.report_unread();
  if (q == nullptr || uv == nullptr) return nullptr;
  return std::make_unique<Sum>(std::move(q), std::move(uv));
}

}  // namespace

SchemeType sum_scheme() {
  SchemeType type;
  type.type = "sum";
  type.help = "W ≈ Q + U·V: a quantized or pruned matrix and a low-rank correction of what it loses";
  type.keys = {kBase, kCorrection};
  type.make = make_sum;
  return type;
}

}  // namespace lamina

// int4: 4-bit codes −8..7 in groups along K, with float32 or int8 activations.
//
//   code_ij = clamp(rint(w_ij / scale_ig), −8, 7),  w_ij ≈ scale_ig · code_ij
//
// `method` says how scales and codes are found (integer_codes.hpp):
//   rtn   scale_ig = e / −8, where e is the group's weight of largest magnitude, sign included:
//         it falls on −8 exactly and all 16 codes are in use. The step is amax/8 instead of amax/7,
//         at the price of clipping what lies on the other side beyond 7/8 of the extreme (the choice
//         of ggml's Q4_0).
//   mse   the scale of least Σ_j E[x_j²]·(w_ij − ŵ_ij)²
//   gptq  so, and rounded with compensation: compensate.hpp. In channel order a group's scale is of
//         its weights as compensated when it begins; by `act_order`, loudest channels first, of the
//         original weights.
//   awq   mse's, of weights whose columns are scaled up by how loud their activations are: awq.hpp
// `asymmetric` ones span a group from its least weight to its largest:
//   code_ij = clamp(rint(w_ij / scale_ig) + zero_ig, −8, 7),  w_ij ≈ scale_ig · (code_ij − zero_ig)
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/compress/awq.hpp"
#include "kernels/compress/calibration_keys.hpp"
#include "kernels/compress/compensate.hpp"
#include "kernels/compress/integer_codes.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kGroup{
    .name = "group",
    .help = "columns of W that share a scale: 32, 64 or 128, which divides in_features; 0: a whole row does",
    .fallback = int64_t{128},
    .min = 0,
    .max = kLargestGroup};
const KeySpec kActivations{.name = "activations",
                           .help = "f32: weights only are quantized; int8: W4A8, activations per token",
                           .fallback = std::string("f32"),
                           .choices = {"f32", "int8"}};
const KeySpec kMethod{.name = "method",
                      .help =
                          "rtn: nearest code; mse: searched scales; gptq: errors compensated; awq: columns "
                          "scaled by their activations",
                      .fallback = std::string("rtn"),
                      .choices = {"rtn", "mse", "gptq", "awq"}};
const KeySpec kActOrder{.name = "act_order",
                        .help = "gptq: loudest channels first, scales of the original weights",
                        .fallback = false};

struct Int4Options {
  int64_t group = 128;
  bool asymmetric = false;
  bool int8_activations = false;
  std::string method = "rtn";
  bool act_order = false;
  CalibrationKeys calibration;
};

class Int4 final : public Scheme {
 public:
  explicit Int4(Int4Options options) : options_(std::move(options)) {}

  std::string name() const override {
    std::string text = "int4" + group_name(options_.group, -1) + (options_.asymmetric ? "-asym" : "");
    if (options_.method != "rtn") text += "-" + options_.method;
    if (options_.act_order) text += "-ordered";
    return text + options_.calibration.suffix() + (options_.int8_activations ? "-a8" : "");
  }
  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {
        {"group", options_.group}, {"asymmetric", options_.asymmetric}, {"method", options_.method}};
    if (options_.method == "gptq") keys.emplace_back("act_order", options_.act_order);
    options_.calibration.describe(keys);
    keys.emplace_back("activations", std::string(options_.int8_activations ? "int8" : "f32"));
    return keys;
  }
  CutUnits units() const override { return {.rows = 1, .cols = std::max<int64_t>(options_.group, 1)}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    // Whole codes per channel, which no fast kernel takes.
    const int64_t codes = shape.out_features * shape.in_features / (options_.group == 0 ? 1 : 2);
    return codes + grid_bytes(shape, options_.group, options_.asymmetric, 4) + input_scale_bytes(shape);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return shape.out_features * shape.in_features +
           grid_bytes(shape, options_.group, options_.asymmetric, 1) + input_scale_bytes(shape);
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    if (options_.int8_activations) leaves.front().scratch_per_token = 2 * shape.in_features;
    if (options_.asymmetric) leaves.front().scratch_per_token += zero_point_scratch(shape, options_.group);
    // Activations divided by the input scales.
    if (options_.method == "awq") leaves.front().scratch_per_token += 4 * shape.in_features;
    return leaves;
  }
  int64_t estimated_compress_bytes(Shape shape, int64_t ranks) const override {
    if (options_.method == "rtn") return 0;
    if (options_.method == "gptq") return compensate_bytes(shape, ranks);
    const int64_t scaled =
        options_.method == "awq" ? 4 * slab_rows_at_most(shape.out_features, ranks) * shape.in_features : 0;
    return std::max(scaled, chunk_bytes(shape.in_features, ranks));
  }
  int64_t calibration_tokens() const override { return options_.calibration.tokens; }
  bool takes_gram() const override { return options_.method == "gptq"; }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    if (options_.method == "rtn")
      check_place(slab);
    else
      check_rows(slab);
    if (options_.group > 0 && slab.rows.cols % options_.group != 0)
      throw std::invalid_argument(fmt::format("int4: expected columns in multiples of group {}, found {}",
                                              options_.group, slab.rows.cols));
    Leaf leaf = leaf_of_codes(slab, 4, range(), options_.group);
    leaf.activation = options_.int8_activations ? ActivationRule::int8_per_token : ActivationRule::f32;
    fill(leaf, slab, context);
    return Canonical{{std::move(leaf)}};
  }

 private:
  int64_t input_scale_bytes(Shape shape) const {
    return options_.method == "awq" ? 4 * shape.in_features : 0;
  }

  CodeRange range() const { return options_.asymmetric ? kInt4Asymmetric : kInt4Codes; }

  void fill(Leaf& leaf, const RowSlab& slab, CompressContext& context) const {
    if (options_.method == "rtn") {
      if (!round_rows(slab.rows, range(), {}, leaf)) check_rows(slab);
      return;
    }
    const auto [tokens, damping] = options_.calibration;
    const bool grids_on_the_way = options_.method == "gptq" && !options_.act_order && options_.group > 0;
    ChannelStatistics statistics;
    if (!grids_on_the_way) statistics = context.calibration().channels(tokens);
    const std::vector<double>& loud = statistics.mean_square;
    if (options_.method == "mse") {
      round_rows(slab.rows, range(), loud, leaf);
      return;
    }
    if (options_.method == "gptq")
      return round_compensated(slab, range(), loud, options_.act_order, tokens, damping,
                               context.calibration(), leaf);
    leaf.input_scales = awq_input_scales(slab, statistics, range(), leaf.group, context.calibration());
    std::vector<double> cost;
    for (int64_t j = 0; j < leaf.cols; ++j) {
      const float scale = leaf.input_scales[static_cast<size_t>(j)];
      cost.push_back(loud[static_cast<size_t>(j)] / (static_cast<double>(scale) * scale));
    }
    round_rows(scale_columns(slab.rows, leaf.input_scales), range(), cost, leaf);
  }

  Int4Options options_;
};

std::unique_ptr<Scheme> make_int4(const Params& params, Shape shape, const Registry&) {
  Int4Options options;
  options.group = params.integer(kGroup);
  options.asymmetric = params.boolean(kAsymmetric);
  options.int8_activations = params.string(kActivations) == "int8";
  options.method = params.string(kMethod);
  const bool gptq = options.method == "gptq";
  options.calibration = CalibrationKeys::read(
      params, options.method != "rtn", gptq,
      fmt::format("expected a \"method\" that uses it beside it, found {}", options.method));
  options.act_order = params.boolean(kActOrder);
  if (options.act_order && !gptq)
    params.problem(kActOrder.name,
                   fmt::format("expected \"method\" to be gptq beside it, found {}", options.method));
  if (!fits_group(params, kGroup, options.group, shape)) return nullptr;
  return std::make_unique<Int4>(std::move(options));
}

}  // namespace

SchemeType int4_scheme() {
  SchemeType type;
  type.type = "int4";
  type.help =
      "4-bit weights in groups along K or per output channel, with float32 (weight-only) or int8 (W4A8) "
      "activations";
  type.keys = {kGroup, kAsymmetric, kMethod, kActOrder, kGramTokens, kGramDamping, kActivations};
  type.make = make_int4;
  return type;
}

}  // namespace lamina

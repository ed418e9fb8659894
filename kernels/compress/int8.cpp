// int8: weights symmetric per output channel; activations per token (W8A8), or left as they are.
//
//   scale_i = max_j |w_ij| / 127,  code_ij = clamp(rint(w_ij · 127 / max_j |w_ij|), ±127),  w_ij ≈ scale_i ·
//   code_ij
//
// Or in groups along K, or with zero points, and by `mse` or `gptq`: integer_codes.hpp.
//
// By `smooth` so of W·diag(c), with c_j = max_t |x_tj|^strength / max_i |w_ij|^(1 − strength), and
// activations are divided by c before they are quantized: the loud channels, which take the steps of all
// others of a token, hand over to the weights (SmoothQuant: Xiao, Lin, Seznec, Wu, Demouth, Han 2023).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/compress/calibration_keys.hpp"
#include "kernels/compress/compensate.hpp"
#include "kernels/compress/integer_codes.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kActivations{.name = "activations",
                           .help = "int8: W8A8, activations per token; f32: weights only are quantized",
                           .fallback = std::string("int8"),
                           .choices = {"f32", "int8"}};

const KeySpec kMethod{.name = "method",
                      .help =
                          "rtn: nearest code; mse: searched scales; gptq: errors compensated; smooth: loud "
                          "activations are scaled down and their weights up",
                      .fallback = std::string("rtn"),
                      .choices = {"rtn", "mse", "gptq", "smooth"}};
const KeySpec kGroup{.name = "group",
                     .help = "columns of W that share a scale: 32, 64 or 128; 0: a whole row does",
                     .fallback = int64_t{0},
                     .min = 0,
                     .max = kLargestGroup};
const KeySpec kStrength{.name = "strength",
                        .help = "smooth: share of the activations' range that weights take over",
                        .fallback = 0.5,
                        .min = 0,
                        .max = 1};

struct Int8Options {
  bool int8_activations = true;
  std::string method = "rtn";
  int64_t group = 0;
  bool asymmetric = false;
  double strength = 0.5;
  CalibrationKeys calibration;
};

class Int8 final : public Scheme {
 public:
  explicit Int8(Int8Options options) : options_(std::move(options)) {}

  std::string name() const override {
    const bool usual = options_.strength == std::get<double>(kStrength.fallback);
    return "int8" + group_name(options_.group, 0) + (options_.asymmetric ? "-asym" : "") +
           (options_.method == "rtn" ? "" : "-" + options_.method) +
           (usual ? "" : fmt::format("-s{:.6g}", options_.strength)) + options_.calibration.suffix() +
           (options_.int8_activations ? "" : "-a32");
  }
  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {
        {"group", options_.group}, {"asymmetric", options_.asymmetric}, {"method", options_.method}};
    if (smooth()) keys.emplace_back("strength", options_.strength);
    options_.calibration.describe(keys);
    keys.emplace_back("activations", std::string(options_.int8_activations ? "int8" : "f32"));
    return keys;
  }
  CutUnits units() const override { return {.rows = 1, .cols = std::max<int64_t>(options_.group, 1)}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * shape.in_features +
           grid_bytes(shape, options_.group, options_.asymmetric, 4) + input_scale_bytes(shape);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return shape.out_features * shape.in_features +
           grid_bytes(shape, options_.group, options_.asymmetric, 1) + input_scale_bytes(shape);
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    LeafBytes& leaf = leaves.front();
    // Of smooth, activations divided by the input scales too.
    if (options_.int8_activations) leaf.scratch_per_token = (smooth() ? 6 : 2) * shape.in_features;
    if (options_.asymmetric) leaf.scratch_per_token += zero_point_scratch(shape, options_.group);
    return leaves;
  }
  int64_t estimated_compress_bytes(Shape shape, int64_t ranks) const override {
    if (options_.method == "rtn") return 0;
    if (options_.method == "gptq") return compensate_bytes(shape, ranks);
    const int64_t scaled =
        smooth() ? 4 * slab_rows_at_most(shape.out_features, ranks) * shape.in_features : 0;
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
    Leaf leaf = codes_of(slab, context);
    if (options_.int8_activations) leaf.activation = ActivationRule::int8_per_token;
    return Canonical{{std::move(leaf)}};
  }

 private:
  bool smooth() const { return options_.method == "smooth"; }
  int64_t input_scale_bytes(Shape shape) const { return smooth() ? 4 * shape.in_features : 0; }

  Leaf codes_of(const RowSlab& slab, CompressContext& context) const {
    const auto [tokens, damping] = options_.calibration;
    if (smooth()) {
      std::vector<float> scales = smooth_scales(slab, context.calibration());
      Leaf leaf = nearest({scale_columns(slab.rows, scales), slab.row_begin, slab.shape}, {});
      leaf.input_scales = std::move(scales);
      return leaf;
    }
    if (options_.method == "rtn") return nearest(slab, {});
    std::vector<double> loud;
    const bool searched = options_.method == "mse" || options_.group == 0;
    if (searched) loud = context.calibration().channels(tokens).mean_square;
    if (options_.method == "mse") return nearest(slab, loud);
    const CodeRange range = this->range();
    Leaf leaf = leaf_of_codes(slab, 8, range, options_.group);
    round_compensated(slab, range, loud, false, tokens, damping, context.calibration(), leaf);
    return leaf;
  }

  CodeRange range() const { return options_.asymmetric ? kInt8Asymmetric : kInt8Codes; }

  Leaf nearest(const RowSlab& slab, const std::vector<double>& cost) const {
    Leaf leaf = leaf_of_codes(slab, 8, range(), options_.group);
    if (!round_rows(slab.rows, range(), cost, leaf)) check_rows(slab);
    return leaf;
  }

  // Of channels whose weights or inputs are all 0 it is 1.
  std::vector<float> smooth_scales(const RowSlab& slab, Calibrator& calibrator) const {
    const std::vector<double> inputs = calibrator.channels(options_.calibration.tokens).largest;
    std::vector<double> weights(inputs.size());
    for (int64_t i = 0; i < slab.rows.rows; ++i)
      for (size_t j = 0; j < weights.size(); ++j)
        weights[j] = std::max(weights[j], static_cast<double>(std::fabs(slab.rows.row(i)[j])));
    weights = calibrator.largest(std::move(weights));
    std::vector<float> scales(inputs.size(), 1.0f);
    for (size_t j = 0; j < scales.size(); ++j) {
      if (inputs[j] < kSmallestActivation || weights[j] < kSmallestActivation) continue;
      scales[j] = static_cast<float>(std::pow(inputs[j], options_.strength) /
                                     std::pow(weights[j], 1 - options_.strength));
    }
    return scales;
  }

  Int8Options options_;
};

std::unique_ptr<Scheme> make_int8(const Params& params, Shape shape, const Registry&) {
  Int8Options options;
  options.method = params.string(kMethod);
  options.int8_activations = params.string(kActivations) == "int8";
  options.asymmetric = params.boolean(kAsymmetric);
  const bool smooth = options.method == "smooth";
  if (smooth && !options.int8_activations)
    params.problem(kMethod.name, "expected activations int8, whose range it is for, found f32");
  options.strength = params.number(kStrength);
  options.calibration = CalibrationKeys::read(
      params, options.method != "rtn", options.method == "gptq",
      fmt::format("expected a \"method\" that uses it beside it, found {}", options.method));
  if (!smooth && params.has(kStrength.name))
    params.problem(kStrength.name,
                   fmt::format("expected \"method\" to be smooth beside it, found {}", options.method));
  options.group = params.integer(kGroup);
  if (!fits_group(params, kGroup, options.group, shape)) return nullptr;
  return std::make_unique<Int8>(std::move(options));
}

}  // namespace

SchemeType int8_scheme() {
  SchemeType type;
  type.type = "int8";
  type.help =
      "8-bit weights per output channel or group, with int8 (W8A8) or float32 (weight-only) activations";
  type.keys = {kGroup, kAsymmetric, kMethod, kStrength, kGramTokens, kGramDamping, kActivations};
  type.make = make_int8;
  return type;
}

}  // namespace lamina

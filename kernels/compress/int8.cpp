// int8: weights symmetric per output channel; activations per token (W8A8), or left as they are.
//
//   scale_i = max_j |w_ij| / 127,  code_ij = clamp(rint(w_ij · 127 / max_j |w_ij|), ±127),  w_ij ≈ scale_i ·
//   code_ij
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
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kActivations{.name = "activations",
                           .help = "int8: W8A8, activations per token; f32: weights only are quantized",
                           .fallback = std::string("int8"),
                           .choices = {"f32", "int8"}};

const KeySpec kMethod{
    .name = "method",
    .help = "rtn: nearest code; smooth: loud activations are scaled down and their weights up",
    .fallback = std::string("rtn"),
    .choices = {"rtn", "smooth"}};
const KeySpec kStrength{.name = "strength",
                        .help = "smooth: share of the activations' range that weights take over",
                        .fallback = 0.5,
                        .min = 0,
                        .max = 1};

struct Int8Options {
  bool int8_activations = true;
  bool smooth = false;
  double strength = 0.5;
  CalibrationKeys calibration;
};

class Int8 final : public Scheme {
 public:
  explicit Int8(Int8Options options) : options_(std::move(options)) {}

  std::string name() const override {
    if (!options_.smooth) return options_.int8_activations ? "int8" : "int8-a32";
    const bool usual = options_.strength == std::get<double>(kStrength.fallback);
    return "int8-smooth" + (usual ? "" : fmt::format("-s{:.6g}", options_.strength)) +
           options_.calibration.suffix();
  }
  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {
        {"method", std::string(options_.smooth ? "smooth" : "rtn")}};
    if (options_.smooth) keys.emplace_back("strength", options_.strength);
    options_.calibration.describe(keys);
    keys.emplace_back("activations", std::string(options_.int8_activations ? "int8" : "f32"));
    return keys;
  }
  CutUnits units() const override { return {}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return shape.out_features * (shape.in_features + 4) + (options_.smooth ? 4 * shape.in_features : 0);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override { return estimated_weight_bytes(shape); }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    if (!options_.int8_activations) return leaves;
    // Of smooth, activations divided by the input scales too.
    leaves.front().scratch_per_token = (options_.smooth ? 6 : 2) * shape.in_features;
    return leaves;
  }
  int64_t estimated_compress_bytes(Shape shape, int64_t ranks) const override {
    if (!options_.smooth) return 0;
    return std::max(4 * slab_rows_at_most(shape.out_features, ranks) * shape.in_features,
                    chunk_bytes(shape.in_features, ranks));
  }
  int64_t calibration_tokens() const override { return options_.calibration.tokens; }
  double estimated_macs(Shape shape) const override {
    return static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    check_rows(slab);
    if (!options_.smooth) return codes_of(slab, {});
    std::vector<float> scales = smooth_scales(slab, context.calibration());
    const Matrix<float> scaled = scale_columns(slab.rows, scales);
    return codes_of({scaled, slab.row_begin, slab.shape}, std::move(scales));
  }

 private:
  Canonical codes_of(const RowSlab& slab, std::vector<float> input_scales) const {
    Leaf leaf = quantize_rows(slab, 127.0f, [](float scaled) {
      return static_cast<int8_t>(std::clamp(round_even(scaled), -127.0f, 127.0f));
    });
    if (options_.int8_activations) leaf.activation = ActivationRule::int8_per_token;
    leaf.input_scales = std::move(input_scales);
    return Canonical{{std::move(leaf)}};
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

std::unique_ptr<Scheme> make_int8(const Params& params, Shape, const Registry&) {
  Int8Options options;
  options.smooth = params.string(kMethod) == "smooth";
  options.int8_activations = params.string(kActivations) == "int8";
  if (options.smooth && !options.int8_activations)
    params.problem(kMethod.name, "expected activations int8, whose range it is for, found f32");
  options.strength = params.number(kStrength);
  options.calibration = CalibrationKeys::read(params, options.smooth, false,
                                              "expected \"method\" to be smooth beside it, found rtn");
  if (!options.smooth && params.has(kStrength.name))
    params.problem(kStrength.name, "expected \"method\" to be smooth beside it, found rtn");
  return std::make_unique<Int8>(std::move(options));
}

}  // namespace

SchemeType int8_scheme() {
  SchemeType type;
  type.type = "int8";
  type.help = "weights symmetric per output channel, with int8 (W8A8) or float32 (weight-only) activations";
  type.keys = {kMethod, kStrength, kGramTokens, kActivations};
  type.make = make_int8;
  return type;
}

}  // namespace lamina

// lowrank: W ≈ U·V with U [N×r] and V [r×K], each factor stored by a scheme of its own kind.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "kernels/compress/nested.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kRank{.name = "rank",
                    .help = "columns of U and rows of V; up to min(in_features, out_features)",
                    .min = 1,
                    .max = 1e9,
                    .optional = true};
const KeySpec kRatio{.name = "ratio",
                     .help = "share of the dense parameters that U and V may take together",
                     .min = 1e-6,
                     .max = 1,
                     .optional = true};
const KeySpec kError{.name = "error",
                     .help = "relative Frobenius error to stay under",
                     .min = 1e-6,
                     .max = 1,
                     .optional = true};
const KeySpec kEnergy{.name = "energy",
                      .help = "share of the squared Frobenius norm to keep",
                      .min = 1e-6,
                      .max = 0.999999,
                      .optional = true};
const KeySpec kMethod{.name = "method",
                      .help = "gram: exact; randomized: faster, near it",
                      .fallback = std::string("gram"),
                      .choices = {"gram", "randomized"}};
const KeySpec kFactorDevice{.name = "factor_device",
                            .help = "where W is factorised: by the processors, or on the ranks' GPUs",
                            .fallback = std::string("cpu"),
                            .choices = {"cpu", "cuda"}};
const KeySpec kWhiten{
    .name = "whiten",
    .help = "count what is lost in outputs on calibration tokens: cholesky, or diagonal by channel",
    .fallback = std::string("none"),
    .choices = {"none", "diagonal", "cholesky"}};
const KeySpec kCalibrationTokens{.name = "calibration_tokens",
                                 .help = "tokens to whiten by",
                                 .fallback = int64_t{512},
                                 .min = 1,
                                 .max = 1 << 20};
const KeySpec kDamping{.name = "damping",
                       .help = "share of the channels' mean square that whitening adds to each",
                       .fallback = 0.01,
                       .min = 0,
                       .max = 1};
const KeySpec kFactors{.name = "factors",
                       .help = "how U and V are stored: a scheme of one matrix (default: dense)",
                       .optional = true};

class LowRank final : public Scheme {
 public:
  // `rank` is the rule's, or the largest possible one where only the error or the energy is given.
  LowRank(FactorRequest request, int64_t rank, std::unique_ptr<Scheme> u, std::unique_ptr<Scheme> v)
      : request_(std::move(request)), rank_(rank), u_(std::move(u)), v_(std::move(v)) {}

  std::string name() const override {
    const std::string text = request_.rule.rank > 0    ? fmt::format("lowrank-r{}", request_.rule.rank)
                             : request_.rule.ratio > 0 ? fmt::format("lowrank-p{:.6g}", request_.rule.ratio)
                             : request_.rule.error > 0
                                 ? fmt::format("lowrank-e{:.6g}", request_.rule.error)
                                 : fmt::format("lowrank-energy{:.9g}", request_.rule.energy);
    return text + (request_.method == "gram" ? "" : "-" + request_.method) +
           (request_.device == "cpu" ? "" : "-" + request_.device) + whiten_name() + nested_name(*v_);
  }

  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys;
    if (known_rank()) keys.emplace_back("rank", rank_);
    if (request_.rule.ratio > 0) keys.emplace_back("ratio", request_.rule.ratio);
    if (request_.rule.error > 0) keys.emplace_back("error", request_.rule.error);
    if (request_.rule.energy > 0) keys.emplace_back("energy", request_.rule.energy);
    keys.emplace_back("method", request_.method);
    keys.emplace_back(kFactorDevice.name, request_.device);
    if (request_.whiten != Whiten::none) {
      keys.emplace_back("whiten", std::string(name_of(request_.whiten)));
      keys.emplace_back("calibration_tokens", request_.calibration_tokens);
      keys.emplace_back("damping", request_.damping);
    }
    describe_nested(kFactors.name, *v_, keys);
    return keys;
  }

  CutUnits units() const override { return {.rows = u_->units().rows, .cols = v_->units().cols}; }
  int64_t estimated_weight_bytes(Shape shape) const override {
    return u_->estimated_weight_bytes(u_shape(shape)) + v_->estimated_weight_bytes(v_shape(shape));
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return u_->estimated_canonical_bytes(u_shape(shape)) + v_->estimated_canonical_bytes(v_shape(shape));
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    return {u_->estimated_leaves(u_shape(shape)).front(), v_->estimated_leaves(v_shape(shape)).front()};
  }
  int64_t calibration_tokens() const override { return request_.calibration_tokens; }
  int64_t largest_rank() const override { return rank_; }
  FactorRequest factor_request() const override { return request_; }
  double estimated_macs(Shape shape) const override {
    return u_->estimated_macs(u_shape(shape)) + v_->estimated_macs(v_shape(shape));
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    check_rows(slab);
    const Factors factors = context.factorizer.factorize(slab, request_, context.seed);
    const int64_t rank = factors.v.rows;
    if (rank < 1 || factors.u.cols != rank || factors.u.rows != slab.rows.rows ||
        factors.v.cols != slab.shape.in_features)
      throw std::runtime_error(fmt::format(
          "lowrank: expected factors of {}×r and r×{}, found {}×{} and {}×{}", slab.rows.rows,
          slab.shape.in_features, factors.u.rows, factors.u.cols, factors.v.rows, factors.v.cols));
    const Shape shape = slab.shape;
    Canonical u = u_->compress({factors.u, slab.row_begin, {shape.out_features, rank}}, context);
    Canonical v = v_->compress({factors.v, 0, {rank, shape.in_features}}, context);
    Canonical chain;
    chain.leaves.push_back(std::move(u.leaves.front()));
    chain.leaves.push_back(std::move(v.leaves.front()));
    // The factorizer's is of its own factors; what storing them otherwise adds is not known.
    if (v_->name() == kPlainScheme) chain.error = factors.error;
    return chain;
  }

 private:
  static const char* name_of(Whiten whiten) {
    return whiten == Whiten::diagonal ? "diagonal" : whiten == Whiten::cholesky ? "cholesky" : "none";
  }
  // "-whitened" by the Cholesky factor; settings that are not the defaults, so that names tell schemes apart.
  std::string whiten_name() const {
    if (request_.whiten == Whiten::none) return "";
    std::string text = request_.whiten == Whiten::diagonal ? "-scaled" : "-whitened";
    if (request_.calibration_tokens != std::get<int64_t>(kCalibrationTokens.fallback))
      text += fmt::format("-c{}", request_.calibration_tokens);
    if (request_.damping != std::get<double>(kDamping.fallback))
      text += fmt::format("-d{:.6g}", request_.damping);
    return text;
  }
  bool known_rank() const { return request_.rule.rank > 0 || request_.rule.ratio > 0; }
  Shape u_shape(Shape shape) const { return {shape.out_features, rank_}; }
  Shape v_shape(Shape shape) const { return {rank_, shape.in_features}; }

  FactorRequest request_;
  int64_t rank_;
  std::unique_ptr<Scheme> u_, v_;
};

// Exactly one of rank, ratio, error and energy; false after a problem.
bool read_rule(const Params& params, Shape shape, RankRule* rule, int64_t* rank) {
  const int64_t largest = std::min(shape.out_features, shape.in_features);
  const int given = int{params.has(kRank.name)} + int{params.has(kRatio.name)} +
                    int{params.has(kError.name)} + int{params.has(kEnergy.name)};
  const size_t before = params.problems()->items().size();
  if (params.has(kRank.name)) rule->rank = params.integer(kRank);
  if (params.has(kRatio.name)) rule->ratio = params.number(kRatio);
  if (params.has(kError.name)) rule->error = params.number(kError);
  if (params.has(kEnergy.name)) rule->energy = params.number(kEnergy);
  if (given != 1) {
    params.problem("", fmt::format("expected exactly one of rank, ratio, error and energy, found {}",
                                   given == 0 ? "none" : std::to_string(given)));
    return false;
  }
  if (params.problems()->items().size() != before) return false;
  if (rule->rank > largest) {
    params.problem(kRank.name, fmt::format("expected at most min(out_features, in_features) = {}, found {}",
                                           largest, rule->rank));
    return false;
  }
  *rank = rule->rank;
  if (rule->ratio > 0) {
    const auto n = static_cast<double>(shape.out_features), k = static_cast<double>(shape.in_features);
    *rank = std::min(static_cast<int64_t>(std::floor(rule->ratio * n * k / (n + k))), largest);
    if (*rank < 1) {
      params.problem(kRatio.name,
                     fmt::format("expected at least {:.3g} (rank 1 of {} × {}), found {:.6g}",
                                 (n + k) / (n * k), shape.out_features, shape.in_features, rule->ratio));
      return false;
    }
  }
  if (rule->error > 0 || rule->energy > 0) *rank = largest;
  return true;
}

// False after a problem.
bool read_whiten(const Params& params, FactorRequest* request) {
  const size_t before = params.problems()->items().size();
  const std::string whiten = params.string(kWhiten);
  if (whiten == "none") {
    for (const KeySpec* key : {&kCalibrationTokens, &kDamping}) {
      if (!params.has(key->name)) continue;
      params.mark_read(key->name);
      params.problem(key->name, "expected \"whiten\" to be diagonal or cholesky beside it, found none");
    }
    return params.problems()->items().size() == before;
  }
  request->whiten = whiten == "diagonal" ? Whiten::diagonal : Whiten::cholesky;
  request->calibration_tokens = params.integer(kCalibrationTokens);
  request->damping = params.number(kDamping);
  return params.problems()->items().size() == before;
}

std::unique_ptr<Scheme> make_lowrank(const Params& params, Shape shape, const Registry& registry) {
  const NestedScheme factors(params, kFactors, registry, {"lowrank", "sum"});
  RankRule rule;
  int64_t rank = 0;
  const bool ruled = read_rule(params, shape, &rule, &rank);
  FactorRequest request{
      .rule = rule, .method = params.string(kMethod), .device = params.string(kFactorDevice)};
  const bool whitened = read_whiten(params, &request);
  if (!factors.ok() || !whitened) return nullptr;
  if (!ruled) rank = std::min(shape.out_features, shape.in_features);
  const size_t before = params.problems()->items().size();
  std::unique_ptr<Scheme> v = factors.make({rank, shape.in_features});
  std::unique_ptr<Scheme> u;
  if (v != nullptr && ruled) {
    if (v->calibration_tokens() > 0) {
      params.problem(kFactors.name,
                     fmt::format("expected a scheme without calibration tokens, which are the inputs of the "
                                 "layer and not of a factor; found {}",
                                 v->name()));
    } else if ((rule.error > 0 || rule.energy > 0) && v->units().cols > 1) {
      params.problem(
          kFactors.name,
          fmt::format("expected a scheme without groups along K, because the rank that meets an error "
                      "or energy is not known before; found {}",
                      v->name()));
    } else {
      u = factors.make({shape.out_features, rank});
      if (u == nullptr)
        params.problem(kFactors.name,
                       fmt::format("does not fit the factor U, whose in_features is the rank {}", rank));
    }
  }
  factors.report_unread();
  if (u == nullptr || v == nullptr || params.problems()->items().size() != before) return nullptr;
  return std::make_unique<LowRank>(request, rank, std::move(u), std::move(v));
}

}  // namespace

SchemeType lowrank_scheme() {
  SchemeType type;
  type.type = "lowrank";
  type.help = "W ≈ U·V by rank, parameter ratio, error or energy; each factor dense, quantized or pruned";
  type.keys = {kRank,    kRatio,  kError, kEnergy, kMethod, kFactorDevice, kWhiten, kCalibrationTokens,
               kDamping, kFactors};
  type.make = make_lowrank;
  return type;
}

}  // namespace lamina

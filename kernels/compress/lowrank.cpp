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
const KeySpec kFactors{.name = "factors",
                       .help = "how U and V are stored: a scheme of one matrix (default: dense)",
                       .optional = true};

class LowRank final : public Scheme {
 public:
  // `rank` is the rule's, or the largest possible one where only the error or the energy is given.
  LowRank(RankRule rule, int64_t rank, std::string method, std::unique_ptr<Scheme> u,
          std::unique_ptr<Scheme> v)
      : rule_(rule), rank_(rank), method_(std::move(method)), u_(std::move(u)), v_(std::move(v)) {}

  std::string name() const override {
    const std::string text = rule_.rank > 0    ? fmt::format("lowrank-r{}", rule_.rank)
                             : rule_.ratio > 0 ? fmt::format("lowrank-p{:.6g}", rule_.ratio)
                             : rule_.error > 0 ? fmt::format("lowrank-e{:.6g}", rule_.error)
                                               : fmt::format("lowrank-energy{:.9g}", rule_.energy);
    return text + (method_ == "gram" ? "" : "-" + method_) + nested_name(*v_);
  }

  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys;
    if (known_rank()) keys.emplace_back("rank", rank_);
    if (rule_.ratio > 0) keys.emplace_back("ratio", rule_.ratio);
    if (rule_.error > 0) keys.emplace_back("error", rule_.error);
    if (rule_.energy > 0) keys.emplace_back("energy", rule_.energy);
    keys.emplace_back("method", method_);
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
  int64_t largest_rank() const override { return rank_; }
  std::string factor_method() const override { return method_; }
  double estimated_macs(Shape shape) const override {
    return u_->estimated_macs(u_shape(shape)) + v_->estimated_macs(v_shape(shape));
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    check_rows(slab);
    const Factors factors = context.factorizer.factorize(slab, rule_, method_, context.seed);
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
  bool known_rank() const { return rule_.rank > 0 || rule_.ratio > 0; }
  Shape u_shape(Shape shape) const { return {shape.out_features, rank_}; }
  Shape v_shape(Shape shape) const { return {rank_, shape.in_features}; }

  RankRule rule_;
  int64_t rank_;
  std::string method_;
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

std::unique_ptr<Scheme> make_lowrank(const Params& params, Shape shape, const Registry& registry) {
  const NestedScheme factors(params, kFactors, registry, {"lowrank"});
  RankRule rule;
  int64_t rank = 0;
  const bool ruled = read_rule(params, shape, &rule, &rank);
  const std::string method = params.string(kMethod);
  if (!factors.ok()) return nullptr;
  if (!ruled) rank = std::min(shape.out_features, shape.in_features);
  const size_t before = params.problems()->items().size();
  std::unique_ptr<Scheme> v = factors.make({rank, shape.in_features});
  std::unique_ptr<Scheme> u;
  if (v != nullptr && ruled) {
    if ((rule.error > 0 || rule.energy > 0) && v->units().cols > 1) {
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
  return std::make_unique<LowRank>(rule, rank, method, std::move(u), std::move(v));
}

}  // namespace

SchemeType lowrank_scheme() {
  SchemeType type;
  type.type = "lowrank";
  type.help = "W ≈ U·V by rank, parameter ratio, error or energy; each factor dense, quantized or pruned";
  type.keys = {kRank, kRatio, kError, kEnergy, kMethod, kFactors};
  type.make = make_lowrank;
  return type;
}

}  // namespace lamina

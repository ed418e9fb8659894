// pruned: the most important weights stay, the others are 0; unstructured, N of every M, or in blocks. What
// stays may take over what was lost, and is stored by a scheme of its own kind.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "kernels/compress/calibration_keys.hpp"
#include "kernels/compress/compensate.hpp"
#include "kernels/compress/masks.hpp"
#include "kernels/compress/nested.hpp"
#include "kernels/compress/rows.hpp"
#include "kernels/compress/schemes.hpp"

namespace lamina {
namespace {

const KeySpec kPattern{
    .name = "pattern",
    .help = "unstructured, block, or N:M such as 2:4 (N kept of every M along K, M up to 16)",
    .fallback = std::string("unstructured")};
const KeySpec kSparsity{.name = "sparsity",
                        .help = "share of weights that become 0 (unstructured and block)",
                        .fallback = 0.5,
                        .min = 0,
                        .max = 0.9999};
const KeySpec kBlock{
    .name = "block",
    .help = "block of W as \"ROWSxCOLS\", or an integer edge; ROWS divides 128, COLS in_features",
    .fallback = std::string("16x16")};
const KeySpec kImportance{.name = "importance",
                          .help =
                              "what ranks weights: magnitude, or times the norm of their inputs "
                              "(activation: Wanda) or of the loss's gradients",
                          .fallback = std::string("magnitude"),
                          .choices = {"magnitude", "activation", "gradient"}};
const KeySpec kThreshold{
    .name = "threshold",
    .help = "row: each row keeps as many; global: one threshold for the layer, not of N:M",
    .fallback = std::string("row"),
    .choices = {"row", "global"}};
const KeySpec kCompensate{.name = "compensate",
                          .help = "the weights that stay take over what was lost (SparseGPT's update)",
                          .fallback = false};
const KeySpec kValues{.name = "values",
                      .help = "how the weights that stay are stored: a scheme of one matrix (default: dense)",
                      .optional = true};

// Slabs of rows come in multiples of this, so blocks must not straddle it.
constexpr int64_t kSlabRows = 128;

struct PrunedOptions {
  Pattern pattern;
  double sparsity = 0;
  std::string importance;
  bool global = false;
  bool compensate = false;
  CalibrationKeys calibration;
};

// Drops what the mask does; the others stay as compensated.
class DropWeights final : public Replacement {
 public:
  DropWeights(Matrix<float>& kept, const std::vector<uint8_t>& mask) : kept_(kept), mask_(mask) {}
  double replace(int64_t row, int64_t channel, double w) override {
    const auto at = static_cast<size_t>(row * kept_.cols + channel);
    return kept_.data[at] = mask_[at] != 0 ? static_cast<float>(w) : 0.0f;
  }

 private:
  Matrix<float>& kept_;
  const std::vector<uint8_t>& mask_;
};

class Pruned final : public Scheme {
 public:
  Pruned(PrunedOptions options, std::unique_ptr<Scheme> values)
      : options_(std::move(options)), values_(std::move(values)) {}

  std::string name() const override {
    return "pruned-" + kept_text() + (options_.importance == "magnitude" ? "" : "-" + options_.importance) +
           (options_.global ? "-global" : "") + (options_.compensate ? "-compensated" : "") +
           options_.calibration.suffix() + nested_name(*values_);
  }

  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {{"pattern", pattern_text()},
                                                       {"sparsity", options_.sparsity}};
    if (options_.pattern.kind == PatternKind::block) keys.emplace_back("block", block_text());
    keys.emplace_back("importance", options_.importance);
    if (options_.pattern.kind != PatternKind::n_of_m)
      keys.emplace_back("threshold", std::string(options_.global ? "global" : "row"));
    keys.emplace_back("compensate", options_.compensate);
    options_.calibration.describe(keys);
    describe_nested(kValues.name, *values_, keys);
    return keys;
  }

  CutUnits units() const override {
    const CutUnits own = pattern_units(options_.pattern), values = values_->units();
    return {.rows = std::lcm(own.rows, values.rows), .cols = std::lcm(own.cols, values.cols)};
  }

  int64_t estimated_weight_bytes(Shape shape) const override {
    const Pattern& p = options_.pattern;
    const int64_t weights = shape.out_features * shape.in_features;
    if (packed() == Packed::canonical) return estimated_canonical_bytes(shape);
    // The values of the kept weights alone: their rows are so much shorter.
    const int64_t kept = values_->estimated_weight_bytes(
        {shape.out_features, std::llround((1 - options_.sparsity) * static_cast<double>(shape.in_features))});
    if (packed() == Packed::slots) return kept + weights / 8;
    if (p.kind == PatternKind::block) return kept + kept / (4 * p.block_rows * p.block_cols) * 4;
    return kept + shape.out_features * ((shape.in_features + 7) / 8 + 8);
  }
  int64_t estimated_canonical_bytes(Shape shape) const override {
    return values_->estimated_canonical_bytes(shape) + shape.out_features * shape.in_features;
  }
  std::vector<LeafBytes> estimated_leaves(Shape shape) const override {
    auto leaves = Scheme::estimated_leaves(shape);
    LeafBytes& leaf = leaves.front();
    const int64_t kept = kept_of(shape.in_features, options_.sparsity);
    leaf.kept = shape.out_features * kept;
    leaf.scratch_per_token = values_->estimated_leaves(shape).front().scratch_per_token;
    // Blocks whose rows fill no panels: 16 tokens' activations, gathered to match a row of blocks.
    if (options_.pattern.kind == PatternKind::block) leaf.scratch_per_thread += 16 * 4 * kept;
    return leaves;
  }
  int64_t estimated_compress_bytes(Shape shape, int64_t ranks) const override {
    // The rows with zeros in them, from which the values are made.
    return 4 * slab_rows_at_most(shape.out_features, ranks) * shape.in_features +
           std::max({options_.compensate               ? compensate_bytes(shape, ranks)
                     : options_.calibration.tokens > 0 ? chunk_bytes(shape.in_features, ranks)
                                                       : 0,
                     options_.importance == "gradient" ? gradient_bytes(shape, ranks) : 0,
                     values_->estimated_compress_bytes(shape, ranks)});
  }
  int64_t calibration_tokens() const override {
    return std::max(options_.calibration.tokens, values_->calibration_tokens());
  }
  bool takes_gram() const override { return options_.compensate || values_->takes_gram(); }
  double estimated_macs(Shape shape) const override {
    const double share = packed() == Packed::canonical ? 1 : 1 - options_.sparsity;
    return share * values_->estimated_macs(shape);
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    check_rows(slab);
    const auto& [tokens, damping] = options_.calibration;
    std::vector<uint8_t> mask = choose(slab, context);
    Matrix<float> kept(slab.rows.rows, slab.rows.cols);
    if (options_.compensate) {
      DropWeights dropping(kept, mask);
      compensate(slab, natural_order(slab.rows.cols), tokens, damping, context.calibration(), dropping);
    } else {
      const auto size = static_cast<int64_t>(mask.size());
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < size; ++i) kept.data[i] = mask[i] != 0 ? slab.rows.data[i] : 0.0f;
    }
    Canonical weights = values_->compress({kept, slab.row_begin, slab.shape, &mask}, context);
    Leaf& leaf = weights.leaves.front();
    // Whatever code a scheme gives to 0.
    const auto codes = static_cast<int64_t>(leaf.codes.size());
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < codes; ++i)
      if (mask[i] == 0) leaf.codes[i] = 0;
    leaf.pattern = options_.pattern;
    leaf.mask = std::move(mask);
    return weights;
  }

 private:
  std::vector<uint8_t> choose(const RowSlab& slab, CompressContext& context) const {
    Importance importance;
    const int64_t tokens = options_.calibration.tokens;
    if (options_.importance == "activation")
      importance.loud = context.calibration().channels(tokens).mean_square;
    if (options_.importance == "gradient")
      importance.slopes =
          context.calibration().slopes({slab.row_begin, slab.row_begin + slab.rows.rows}, tokens);
    return options_.global
               ? global_mask_of(slab, options_.pattern, options_.sparsity, importance, context.calibration())
               : mask_of(slab, options_.pattern, options_.sparsity, importance);
  }

  // The slopes, and of 128 tokens the squares of their inputs and cotangents.
  static int64_t gradient_bytes(Shape shape, int64_t ranks) {
    const int64_t rows = slab_rows_at_most(shape.out_features, ranks);
    return 8 * rows * shape.in_features + 16 * 128 * (shape.in_features + rows) +
           chunk_bytes(shape.in_features, ranks);
  }

  // How a layer stores it, for the estimates: what no fast kernel takes stays as it is.
  enum class Packed { canonical, bitmap_or_blocks, slots };
  Packed packed() const {
    const std::string values = values_->name();
    const Pattern& p = options_.pattern;
    const bool two_of_four = p.kind == PatternKind::n_of_m && p.n == 2 && p.m == 4;
    const bool w8a8 = values.starts_with("int8") && !values.ends_with("-a32") &&
                      !values.starts_with("int8-g") && values.find("-asym") == std::string::npos;
    if (two_of_four && (values == kPlainScheme || values == "dense-bf16" || w8a8)) return Packed::slots;
    return values == kPlainScheme ? Packed::bitmap_or_blocks : Packed::canonical;
  }

  std::string kept_text() const {
    const Pattern& p = options_.pattern;
    if (p.kind == PatternKind::n_of_m) return pattern_text();
    const std::string percent = fmt::format("{:.6g}%", options_.sparsity * 100);
    if (p.kind == PatternKind::unstructured) return percent;
    return fmt::format("block{}-{}",
                       p.block_rows == p.block_cols ? std::to_string(p.block_rows) : block_text(), percent);
  }
  std::string block_text() const {
    return fmt::format("{}x{}", options_.pattern.block_rows, options_.pattern.block_cols);
  }
  std::string pattern_text() const {
    const Pattern& p = options_.pattern;
    if (p.kind == PatternKind::n_of_m) return fmt::format("{}:{}", p.n, p.m);
    return p.kind == PatternKind::block ? "block" : "unstructured";
  }

  PrunedOptions options_;
  std::unique_ptr<Scheme> values_;
};

// "A:B" or "AxB" of two positive integers.
bool parse_pair(const std::string& text, char separator, int64_t* first, int64_t* second) {
  const char* end = text.data() + text.size();
  auto left = std::from_chars(text.data(), end, *first);
  if (left.ec != std::errc() || left.ptr == end || *left.ptr != separator) return false;
  auto right = std::from_chars(left.ptr + 1, end, *second);
  return right.ec == std::errc() && right.ptr == end && *first > 0 && *second > 0;
}

void refuse_key(const Params& params, const KeySpec& key, const std::string& pattern) {
  if (!params.has(key.name)) return;
  params.mark_read(key.name);
  params.problem(key.name, fmt::format("has no meaning with pattern \"{}\"; remove it", pattern));
}

// The block key is text or an integer edge.
bool read_block(const Params& params, Shape shape, Pattern* pattern) {
  const int64_t* edge = nullptr;
  for (const Params::Entry& entry : params.entries()) {
    if (entry.key == kBlock.name) edge = std::get_if<int64_t>(&entry.value);
  }
  if (edge != nullptr) {
    params.mark_read(kBlock.name);
    pattern->block_rows = pattern->block_cols = *edge;
  } else {
    const std::string text = params.string(kBlock);
    if (!parse_pair(text, 'x', &pattern->block_rows, &pattern->block_cols)) {
      params.problem(
          kBlock.name,
          fmt::format("expected \"ROWSxCOLS\" such as \"16x16\", or an integer edge, found \"{}\"", text));
      return false;
    }
  }
  if (pattern->block_rows < 1 || kSlabRows % pattern->block_rows != 0) {
    params.problem(kBlock.name, fmt::format("expected block rows that divide {}, found {}", kSlabRows,
                                            pattern->block_rows));
    return false;
  }
  if (pattern->block_cols < 1 || shape.in_features % pattern->block_cols != 0) {
    params.problem(kBlock.name, fmt::format("expected block columns that divide in_features {}, found {}",
                                            shape.in_features, pattern->block_cols));
    return false;
  }
  return true;
}

// The pattern and what goes with it; false after a problem.
bool read_pattern(const Params& params, Shape shape, PrunedOptions* options) {
  const std::string text = params.string(kPattern);
  Pattern& pattern = options->pattern;
  if (text == "unstructured" || text == "block") {
    options->sparsity = params.number(kSparsity);
    if (text == "unstructured") {
      pattern.kind = PatternKind::unstructured;
      refuse_key(params, kBlock, text);
      return true;
    }
    pattern.kind = PatternKind::block;
    return read_block(params, shape, &pattern);
  }
  pattern.kind = PatternKind::n_of_m;
  if (!parse_pair(text, ':', &pattern.n, &pattern.m) || pattern.n >= pattern.m || pattern.m > 16) {
    params.problem(
        kPattern.name,
        fmt::format("expected \"unstructured\", \"block\", or \"N:M\" with 0 < N < M ≤ 16 such as \"2:4\", "
                    "found \"{}\"",
                    text));
    params.mark_read(kSparsity.name);
    params.mark_read(kBlock.name);
    return false;
  }
  refuse_key(params, kSparsity, text);
  refuse_key(params, kBlock, text);
  if (shape.in_features % pattern.m != 0) {
    params.problem(kPattern.name, fmt::format("expected an M that divides in_features {}, found \"{}\"",
                                              shape.in_features, text));
    return false;
  }
  options->sparsity = 1 - static_cast<double>(pattern.n) / static_cast<double>(pattern.m);
  return true;
}

std::unique_ptr<Scheme> make_pruned(const Params& params, Shape shape, const Registry& registry) {
  PrunedOptions options;
  options.importance = params.string(kImportance);
  options.global = params.string(kThreshold) == "global";
  options.compensate = params.boolean(kCompensate);
  options.calibration = CalibrationKeys::read(
      params, options.importance != "magnitude" || options.compensate, options.compensate,
      "expected \"compensate\" or an importance that uses it beside it");
  const bool read = read_pattern(params, shape, &options);
  if (read && options.pattern.kind == PatternKind::n_of_m)
    refuse_key(params, kThreshold, params.string(kPattern));
  const NestedScheme nested(params, kValues, registry, {"pruned", "lowrank", "sum"});
  if (!nested.ok()) return nullptr;
  std::unique_ptr<Scheme> values = nested.make(shape);
  nested.report_unread();
  if (!read || values == nullptr) return nullptr;
  return std::make_unique<Pruned>(options, std::move(values));
}

}  // namespace

SchemeType pruned_scheme() {
  SchemeType type;
  type.type = "pruned";
  type.help =
      "zeros where weights matter least: unstructured, N of every M, or blocks; the rest dense or quantized";
  type.keys = {kPattern,    kSparsity,   kBlock,       kImportance, kThreshold,
               kCompensate, kGramTokens, kGramDamping, kValues};
  type.make = make_pruned;
  return type;
}

}  // namespace lamina

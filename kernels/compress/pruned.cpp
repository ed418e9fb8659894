// pruned: the weights of largest magnitude stay, the others are 0; unstructured, N of every M, or in blocks.
// What stays is stored by a scheme of its own kind.
//
// Rows (block rows) are pruned one by one, each to the same count, so that the result does not depend on
// which slab they came in. Ties go to the lower column.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

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
                          .help = "what ranks weights",
                          .fallback = std::string("magnitude"),
                          .choices = {"magnitude"}};
const KeySpec kValues{.name = "values",
                      .help = "how the weights that stay are stored: a scheme of one matrix (default: dense)",
                      .optional = true};

// Slabs of rows come in multiples of this, so blocks must not straddle it.
constexpr int64_t kSlabRows = 128;

struct PrunedOptions {
  Pattern pattern;
  double sparsity = 0;
  std::string importance;
};

int64_t kept_of(int64_t count, double sparsity) {
  return count - std::llround(sparsity * static_cast<double>(count));
}

// Marks the `kept` largest keys, the lower index first among equals. `scratch` holds `count` keys.
template <class Key, class Mark>
void mark_largest(const std::vector<Key>& keys, int64_t kept, std::vector<Key>& scratch, Mark mark) {
  if (kept <= 0) return;
  scratch = keys;
  auto nth = scratch.begin() + (kept - 1);
  std::nth_element(scratch.begin(), nth, scratch.end(), std::greater<Key>());
  const Key threshold = *nth;
  int64_t above = 0;
  for (const Key& key : keys) above += key > threshold ? 1 : 0;
  int64_t equal = kept - above;
  for (size_t j = 0; j < keys.size(); ++j) {
    if (keys[j] > threshold || (keys[j] == threshold && equal-- > 0)) mark(static_cast<int64_t>(j));
  }
}

class Pruned final : public Scheme {
 public:
  Pruned(PrunedOptions options, std::unique_ptr<Scheme> values)
      : options_(std::move(options)), values_(std::move(values)) {}

  std::string name() const override { return "pruned-" + kept_text() + nested_name(*values_); }

  std::vector<std::pair<std::string, Value>> describe() const override {
    std::vector<std::pair<std::string, Value>> keys = {{"pattern", pattern_text()},
                                                       {"sparsity", options_.sparsity}};
    if (options_.pattern.kind == PatternKind::block) keys.emplace_back("block", block_text());
    keys.emplace_back("importance", options_.importance);
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
    return 4 * (shape.out_features / ranks) * shape.in_features +
           values_->estimated_compress_bytes(shape, ranks);
  }
  double estimated_macs(Shape shape) const override {
    const double share = packed() == Packed::canonical ? 1 : 1 - options_.sparsity;
    return share * values_->estimated_macs(shape);
  }

  Canonical compress(const RowSlab& slab, CompressContext& context) const override {
    check_rows(slab);
    std::vector<uint8_t> mask = mask_of(slab);
    Matrix<float> kept(slab.rows.rows, slab.rows.cols);
    const auto size = static_cast<int64_t>(mask.size());
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < size; ++i) kept.data[i] = mask[i] != 0 ? slab.rows.data[i] : 0.0f;
    Canonical weights = values_->compress({kept, slab.row_begin, slab.shape}, context);
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
  // How a layer stores it, for the estimates: what no fast kernel takes stays as it is.
  enum class Packed { canonical, bitmap_or_blocks, slots };
  Packed packed() const {
    const std::string values = values_->name();
    const Pattern& p = options_.pattern;
    const bool two_of_four = p.kind == PatternKind::n_of_m && p.n == 2 && p.m == 4;
    if (two_of_four && (values == kPlainScheme || values == "dense-bf16" || values == "int8"))
      return Packed::slots;
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

  // [rows × cols], 1 where a weight stays.
  std::vector<uint8_t> mask_of(const RowSlab& slab) const {
    std::vector<uint8_t> mask(static_cast<size_t>(slab.rows.rows * slab.rows.cols));
    switch (options_.pattern.kind) {
      case PatternKind::n_of_m:
        mark_groups(slab, mask);
        break;
      case PatternKind::block:
        mark_blocks(slab, mask);
        break;
      default:
        mark_rows(slab, mask);
        break;
    }
    return mask;
  }

  void mark_rows(const RowSlab& slab, std::vector<uint8_t>& all) const {
    const int64_t kept = kept_of(slab.rows.cols, options_.sparsity);
#pragma omp parallel
    {
      // Magnitudes as bits: ordered alike, and integers compare faster.
      std::vector<uint32_t> keys(static_cast<size_t>(slab.rows.cols)), scratch;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < slab.rows.rows; ++i) {
        for (int64_t j = 0; j < slab.rows.cols; ++j)
          keys[static_cast<size_t>(j)] = std::bit_cast<uint32_t>(slab.rows(i, j)) & 0x7fffffffu;
        uint8_t* mask = all.data() + i * slab.rows.cols;
        mark_largest(keys, kept, scratch, [mask](int64_t j) { mask[j] = 1; });
      }
    }
  }

  void mark_groups(const RowSlab& slab, std::vector<uint8_t>& all) const {
    const int64_t n = options_.pattern.n, m = options_.pattern.m;
    if (slab.rows.cols % m != 0)
      throw std::invalid_argument(
          fmt::format("pruned: expected columns in multiples of {}, found {}", m, slab.rows.cols));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < slab.rows.rows; ++i) {
      for (int64_t g = 0; g < slab.rows.cols; g += m) {
        const float* w = slab.rows.row(i) + g;
        uint8_t* mask = all.data() + i * slab.rows.cols + g;
        // Kept when fewer than n come before it; m is at most 16.
        for (int64_t j = 0; j < m; ++j) {
          int64_t before = 0;
          for (int64_t o = 0; o < m; ++o) {
            const float mine = std::fabs(w[j]), other = std::fabs(w[o]);
            before += other > mine || (other == mine && o < j) ? 1 : 0;
          }
          mask[j] = before < n ? 1 : 0;
        }
      }
    }
  }

  void mark_blocks(const RowSlab& slab, std::vector<uint8_t>& all) const {
    const int64_t br = options_.pattern.block_rows, bc = options_.pattern.block_cols;
    if (slab.rows.cols % bc != 0)
      throw std::invalid_argument(
          fmt::format("pruned: expected columns in multiples of {}, found {}", bc, slab.rows.cols));
    if (slab.row_begin % br != 0)
      throw std::invalid_argument(
          fmt::format("pruned: expected slabs at multiples of {} rows, found one at {}", br, slab.row_begin));
    const int64_t blocks = slab.rows.cols / bc, kept = kept_of(blocks, options_.sparsity);
#pragma omp parallel
    {
      std::vector<double> norms(static_cast<size_t>(blocks)), scratch;
#pragma omp for schedule(static)
      for (int64_t top = 0; top < slab.rows.rows; top += br) {
        const int64_t bottom = std::min(top + br, slab.rows.rows);  // the last block row may be short
        std::fill(norms.begin(), norms.end(), 0.0);
        for (int64_t i = top; i < bottom; ++i) {
          for (int64_t j = 0; j < slab.rows.cols; ++j) {
            const double w = slab.rows(i, j);
            norms[static_cast<size_t>(j / bc)] += w * w;
          }
        }
        mark_largest(norms, kept, scratch, [&](int64_t block) {
          for (int64_t i = top; i < bottom; ++i) {
            uint8_t* mask = all.data() + i * slab.rows.cols + block * bc;
            std::fill(mask, mask + bc, uint8_t{1});
          }
        });
      }
    }
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
  const bool read = read_pattern(params, shape, &options);
  const NestedScheme nested(params, kValues, registry, {"pruned", "lowrank"});
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
      "zeros where weights are small: unstructured, N of every M, or blocks; the rest dense or quantized";
  type.keys = {kPattern, kSparsity, kBlock, kImportance, kValues};
  type.make = make_pruned;
  return type;
}

}  // namespace lamina

#include "kernels/compress/integer_codes.hpp"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/wide.hpp"

// Into what is compiled for other instructions too.
#define LAMINA_INLINE __attribute__((always_inline)) inline

namespace lamina {
namespace {

// Sixteen weights at a time, by vectors of whatever width there is.
constexpr int64_t kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Words __attribute__((vector_size(4 * kLanes)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));
constexpr int32_t kWhole = 0x4b400000;  // the bits of 1.5·2²³, beside which the last ones are a whole number

// The grid that spans [least, most], 0 included.
LAMINA_INLINE Grid spanning(const CodeRange& range, float least, float most) {
  const float codes = range.high - range.low;
  Grid grid{most / codes - least / codes, 0};  // the difference itself might overflow
  if (grid.scale < kSmallestActivation) return {};
  grid.zero = std::clamp(round_even(range.low - least / grid.scale), range.low, range.high);
  return grid;
}

// Rounds weights as they are compensated. Grids are found as groups begin, or stand in the leaf already.
class RoundToCodes final : public Replacement {
 public:
  RoundToCodes(Leaf& leaf, const CodeRange& range, const std::vector<uint8_t>* mask, bool open)
      : leaf_(leaf), range_(range), mask_(mask), open_(open) {}

  int64_t group() const override { return open_ ? leaf_.group : 0; }
  void open(int64_t row, int64_t channel, float* w, const double* cost) override {
    for (int64_t j = 0; j < leaf_.group; ++j)
      if (dropped(row, channel + j)) w[j] = 0;
    const Grid grid = searched_grid(range_, w, cost, leaf_.group);
    leaf_.scales[group_of(row, channel)] = grid.scale;
    if (range_.asymmetric) leaf_.zero_points[group_of(row, channel)] = static_cast<int8_t>(grid.zero);
  }
  double replace(int64_t row, int64_t channel, double w) override {
    const size_t group = group_of(row, channel);
    const float step = leaf_.scales[group];
    const float zero = range_.asymmetric ? leaf_.zero_points[group] : 0.0f;
    int8_t& code = leaf_.codes[static_cast<size_t>(row * leaf_.cols + channel)];
    code = static_cast<int8_t>(zero);
    if (step == 0 || dropped(row, channel)) return 0;
    code = code_of(range_, static_cast<float>(w), 1.0f / step, zero);
    return static_cast<double>(step) * (code - static_cast<int>(zero));
  }

 private:
  bool dropped(int64_t row, int64_t channel) const {
    return mask_ != nullptr && (*mask_)[static_cast<size_t>(row * leaf_.cols + channel)] == 0;
  }
  size_t group_of(int64_t row, int64_t channel) const {
    return static_cast<size_t>(row * leaf_.groups() + channel / leaf_.group);
  }
  Leaf& leaf_;
  const CodeRange& range_;
  const std::vector<uint8_t>* mask_;
  bool open_;
};

int64_t groups_of(Shape shape, int64_t group) {
  return shape.out_features * (group == 0 ? 1 : shape.in_features / group);
}

}  // namespace

const KeySpec kAsymmetric{.name = "asymmetric",
                          .help = "codes span each group's least to its largest weight, by a zero point",
                          .fallback = false};

bool fits_group(const Params& params, const KeySpec& key, int64_t group, Shape shape) {
  if (group != 0 && group != 32 && group != 64 && group != 128) {
    params.problem(key.name, fmt::format("expected 0, 32, 64 or 128, found {}", group));
    return false;
  }
  if (group == 0 || shape.in_features % group == 0) return true;
  params.problem(key.name,
                 fmt::format("expected a divisor of in_features {}, found {}", shape.in_features, group));
  return false;
}

std::string group_name(int64_t group, int64_t usual) {
  if (group == usual) return {};
  return group == 0 ? "-channel" : fmt::format("-g{}", group);
}

int64_t grid_bytes(Shape shape, int64_t group, bool asymmetric, int64_t zero_bytes) {
  return groups_of(shape, group) * (4 + (asymmetric ? zero_bytes : 0));
}

int64_t zero_point_scratch(Shape shape, int64_t group) {
  return 4 * (shape.out_features + (group == 0 ? 1 : shape.in_features / group));
}

namespace {

// The least and largest of `count` finite weights, 0 included. As integers that are ordered as the floats
// are: infinities beyond all finite ones, NaN beyond those.
struct Extremes {
  float least = 0, most = 0;
  // A comparison with NaN fails.
  bool finite() const {
    constexpr float kLargest = std::numeric_limits<float>::max();
    return least >= -kLargest && most <= kLargest;
  }
};
LAMINA_INLINE Extremes extremes_of(const float* w, int64_t count) {
  const auto ordered = [](auto bits) { return bits ^ ((bits >> 31) & 0x7fffffff); };
  Words lows{}, highs{};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    Words bits;
    std::memcpy(&bits, w + j, sizeof(bits));
    const Words each = bits ^ ((bits >> 31) & 0x7fffffff);
    lows = each < lows ? each : lows;
    highs = each > highs ? each : highs;
  }
  // Halves onto each other, both extremes side by side.
  constexpr Words kMove8{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7};
  constexpr Words kMove4{4, 5, 6, 7, 0, 1, 2, 3}, kMove2{2, 3, 0, 1}, kMove1{1, 0};
  for (const Words& move : {kMove8, kMove4, kMove2, kMove1}) {
    const Words other_lows = __builtin_shuffle(lows, move), other_highs = __builtin_shuffle(highs, move);
    lows = other_lows < lows ? other_lows : lows;
    highs = other_highs > highs ? other_highs : highs;
  }
  int32_t least = lows[0], most = highs[0];
  for (; j < count; ++j) {
    const int32_t each = ordered(std::bit_cast<int32_t>(w[j]));
    least = std::min(least, each);
    most = std::max(most, each);
  }
  return {std::bit_cast<float>(ordered(least)), std::bit_cast<float>(ordered(most))};
}

LAMINA_INLINE Grid widest(const CodeRange& range, const float* w, int64_t count, const Extremes& extremes) {
  if (range.asymmetric) return spanning(range, extremes.least, extremes.most);
  const float amax = std::max(-extremes.least, extremes.most);
  if (amax < kSmallestActivation) return {};
  if (range.low == -range.high) return {amax / range.high, 0};
  if (extremes.most != -extremes.least)
    return {(amax == extremes.most ? extremes.most : extremes.least) / range.low, 0};
  // Both are as far: the first one is the extreme.
  const float* first = std::find_if(w, w + count, [&](float each) { return std::fabs(each) == amax; });
  return {*first / range.low, 0};
}

// code_of of weights that the grid spans, or nearly: their quotients are so small that they can be rounded
// before they are clamped, as the whole numbers beside 1.5·2²³ (rows.hpp). Weights `ahead` of these, whose
// extremes come next, are fetched meanwhile: these are in the caches, and memory would idle.
LAMINA_INLINE void round_by(const CodeRange& range, const float* w, int64_t count, float inverse, float zero,
                            int64_t ahead, int8_t* codes) {
  const auto whole_zero = static_cast<int32_t>(zero);
  const int32_t low = kWhole + static_cast<int32_t>(range.low) - whole_zero,
                high = kWhole + static_cast<int32_t>(range.high) - whole_zero;
  const auto round = [&](const float* from, int8_t* to) {
    __builtin_prefetch(from + ahead);
    Floats quotients;
    std::memcpy(&quotients, from, sizeof(quotients));
    quotients = quotients * inverse + std::bit_cast<float>(kWhole);
    Words whole;
    std::memcpy(&whole, &quotients, sizeof(whole));
    whole = whole < low ? Words{} + low : whole;
    whole = whole > high ? Words{} + high : whole;
    const Bytes bytes = __builtin_convertvector(whole + whole_zero, Bytes);  // what is above them falls off
    std::memcpy(to, &bytes, sizeof(bytes));
  };
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) round(w + j, codes + j);
  if (j == count) return;
  float last[kLanes] = {};
  int8_t rounded[kLanes];
  std::memcpy(last, w + j, sizeof(float) * static_cast<size_t>(count - j));
  round(last, rounded);
  std::memcpy(codes + j, rounded, static_cast<size_t>(count - j));
}

LAMINA_INLINE void round_with(const CodeRange& range, const float* w, int64_t count, const Grid& grid,
                              int64_t ahead, int8_t* codes) {
  if (grid.scale == 0) {
    std::memset(codes, static_cast<int8_t>(grid.zero), static_cast<size_t>(count));
    return;
  }
  round_by(range, w, count, 1.0f / grid.scale, grid.zero, ahead, codes);
}

// A row by one symmetric grid, code = rint(w · (high/amax)): by the quotient, not by the scale's reciprocal.
LAMINA_INLINE bool round_whole_row(const CodeRange& range, const float* w, int64_t row, Leaf& leaf) {
  const Extremes extremes = extremes_of(w, leaf.cols);
  if (!extremes.finite()) return false;
  const float amax = std::max(-extremes.least, extremes.most);
  int8_t* codes = leaf.codes.data() + row * leaf.cols;
  // A row this small counts as zero: high/amax could overflow. The scale stays 0.
  if (amax < kSmallestActivation) {
    std::memset(codes, 0, static_cast<size_t>(leaf.cols));
    return true;
  }
  round_by(range, w, leaf.cols, range.high / amax, 0, leaf.cols, codes);
  leaf.scales[static_cast<size_t>(row)] = amax / range.high;
  return true;
}

// False where a weight is not finite. The same numbers by any instructions: nothing is fused.
LAMINA_WIDE bool round_row(const CodeRange& range, const float* w, int64_t row, Leaf& leaf) {
  if (leaf.per_channel && range.low == -range.high && !range.asymmetric)
    return round_whole_row(range, w, row, leaf);
  // Some groups after each other: their grids' divisions wait for no one's codes.
  constexpr int64_t kSome = 32;
  Extremes extremes[kSome];
  Grid grids[kSome];
  const int64_t groups = leaf.groups();
  for (int64_t first = 0; first < groups; first += kSome) {
    const int64_t some = std::min(kSome, groups - first);
    const float* from = w + first * leaf.group;
    bool finite = true;
    for (int64_t g = 0; g < some; ++g) {
      extremes[g] = extremes_of(from + g * leaf.group, leaf.group);
      finite = finite && extremes[g].finite();
    }
    if (!finite) return false;
    for (int64_t g = 0; g < some; ++g)
      grids[g] = widest(range, from + g * leaf.group, leaf.group, extremes[g]);
    for (int64_t g = 0; g < some; ++g) {
      const auto at = static_cast<size_t>(row * groups + first + g);
      leaf.scales[at] = grids[g].scale;
      if (range.asymmetric) leaf.zero_points[at] = static_cast<int8_t>(grids[g].zero);
      round_with(range, from + g * leaf.group, leaf.group, grids[g], some * leaf.group,
                 leaf.codes.data() + row * leaf.cols + (first + g) * leaf.group);
    }
  }
  return true;
}

}  // namespace

Grid widest_grid(const CodeRange& range, const float* w, int64_t count) {
  return widest(range, w, count, extremes_of(w, count));
}

double rounding_loss(const CodeRange& range, const float* w, const double* cost, int64_t count,
                     const Grid& grid) {
  const float inverse = 1.0f / grid.scale, low = range.low - grid.zero, high = range.high - grid.zero;
  float error[kLargestGroup];
  double loss = 0;
  for (int64_t begin = 0; begin < count; begin += kLargestGroup) {
    const int64_t some = std::min(kLargestGroup, count - begin);
    for (int64_t j = 0; j < some; ++j)
      error[j] = w[begin + j] - grid.scale * round_even(std::clamp(w[begin + j] * inverse, low, high));
    for (int64_t j = 0; j < some; ++j) loss += cost[begin + j] * (static_cast<double>(error[j]) * error[j]);
  }
  return loss;
}

Grid searched_grid(const CodeRange& range, const float* w, const double* cost, int64_t count) {
  const Grid widest = widest_grid(range, w, count);
  if (widest.scale == 0) return {};
  Grid best = widest;
  double least = rounding_loss(range, w, cost, count, widest);
  const auto consider = [&](const Grid& grid) {
    if (grid.scale == 0) return;
    const double loss = rounding_loss(range, w, cost, count, grid);
    if (loss < least) {
      least = loss;
      best = grid;
    }
  };
  const auto shrunk = [](int step) { return 1 - kSearchStep * static_cast<float>(step); };
  if (range.asymmetric) {
    const Extremes extremes = extremes_of(w, count);
    for (int step = 1; step <= kSearchSteps; ++step)
      consider(spanning(range, extremes.least * shrunk(step), extremes.most * shrunk(step)));
    return best;
  }
  for (int step = 0; step <= kSearchSteps; ++step) consider({widest.scale * shrunk(step), 0});
  if (range.low == -range.high) return best;
  // With the other sign the extreme falls on the highest code.
  const float other = widest.scale * (range.low / range.high);
  for (int step = 0; step <= kSearchSteps; ++step) consider({other * shrunk(step), 0});
  return best;
}

Leaf leaf_of_codes(const RowSlab& slab, int bits, const CodeRange& range, int64_t group) {
  Leaf leaf = leaf_of(slab);
  leaf.bits = bits;
  leaf.per_channel = group == 0;
  leaf.group = leaf.per_channel ? leaf.cols : group;
  leaf.codes.resize(static_cast<size_t>(leaf.rows * leaf.cols));
  leaf.scales.resize(static_cast<size_t>(leaf.rows * leaf.groups()));
  if (range.asymmetric) leaf.zero_points.resize(leaf.scales.size());
  return leaf;
}

bool round_rows(const Matrix<float>& rows, const CodeRange& range, const std::vector<double>& cost,
                Leaf& leaf) {
  const int64_t group = leaf.group;
  bool finite = true;
#pragma omp parallel for schedule(static) reduction(&& : finite)
  for (int64_t i = 0; i < leaf.rows; ++i) {
    if (cost.empty()) {
      finite = round_row(range, rows.row(i), i, leaf) && finite;
      continue;
    }
    for (int64_t g = 0; g < leaf.groups(); ++g) {
      const float* w = rows.row(i) + g * group;
      const Grid grid = searched_grid(range, w, cost.data() + g * group, group);
      const auto at = static_cast<size_t>(i * leaf.groups() + g);
      leaf.scales[at] = grid.scale;
      if (range.asymmetric) leaf.zero_points[at] = static_cast<int8_t>(grid.zero);
      round_with(range, w, group, grid, 0, leaf.codes.data() + i * leaf.cols + g * group);
    }
  }
  return finite;
}

void round_compensated(const RowSlab& slab, const CodeRange& range, const std::vector<double>& costs,
                       bool loudest_first, int64_t tokens, double damping, Calibrator& calibrator,
                       Leaf& leaf) {
  const bool open = !loudest_first && !leaf.per_channel;
  std::vector<int64_t> order = natural_order(leaf.cols);
  if (!open) round_rows(slab.rows, range, costs, leaf);
  if (loudest_first)
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return costs[static_cast<size_t>(a)] > costs[static_cast<size_t>(b)];
    });
  RoundToCodes rounding(leaf, range, slab.mask, open);
  compensate(slab, order, tokens, damping, calibrator, rounding);
}

}  // namespace lamina

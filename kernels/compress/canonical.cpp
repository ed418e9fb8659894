#include "kernels/compress/canonical.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <type_traits>

#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

void expect_size(const char* field, size_t found, int64_t rows, int64_t cols) {
  if (static_cast<int64_t>(found) != rows * cols)
    throw std::invalid_argument(fmt::format("leaf: expected {} × {} {}, found {}", rows, cols, field, found));
}

// A cut at `at` of [0, whole) is fine at multiples of `unit` and at the whole's end.
void expect_cut(const char* what, int64_t at, int64_t unit, int64_t whole) {
  if (unit > 1 && at % unit != 0 && at != whole)
    throw std::invalid_argument(
        fmt::format("slice: expected a cut of {} at a multiple of {}, found {}", what, unit, at));
}

template <class Numbers>
Numbers cut(const Numbers& from, int64_t stride, Range rows, Range cols) {
  Numbers to;
  if (from.empty()) return to;
  to.resize(static_cast<size_t>(rows.size() * cols.size()));
  if (to.empty()) return to;
  for (int64_t i = 0; i < rows.size(); ++i) {
    std::memcpy(to.data() + i * cols.size(), from.data() + (rows.begin + i) * stride + cols.begin,
                static_cast<size_t>(cols.size()) * sizeof(to[0]));
  }
  return to;
}

// Where a leaf's columns may be cut: between its groups, and between the pattern's pieces.
int64_t column_unit(const Leaf& leaf) {
  const int64_t group = leaf.group > 0 && !leaf.per_channel ? leaf.group : 1;
  return std::lcm(group, std::max<int64_t>(pattern_units(leaf.pattern).cols, 1));
}

template <class Numbers>
void append(Numbers& to, const Numbers& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// The byte image: this header, then every array as its count (int64) and elements, in the order of
// for_each_array. Only ever read by the same program on the same kind of machine.
struct Header {
  char magic[8] = {'l', 'm', 'n', 'l', 'e', 'a', 'f', '1'};
  int64_t rows, cols, whole_rows, whole_cols, row_begin, col_begin, bits, group;
  int64_t kind, n, m, block_rows, block_cols, activation, per_channel, fp8, fp16;
};
static_assert(std::is_trivially_copyable_v<Header>);

template <class LeafType, class Visit>
void for_each_array(LeafType& leaf, Visit visit) {
  visit(leaf.values);
  visit(leaf.codes);
  visit(leaf.scales);
  visit(leaf.zero_points);
  visit(leaf.input_scales);
  visit(leaf.mask);
}

}  // namespace

const char* name_of(ActivationRule rule) {
  switch (rule) {
    case ActivationRule::int8_per_token:
      return "int8";
    case ActivationRule::bf16:
      return "bf16";
    case ActivationRule::fp8_per_token:
      return "fp8";
    default:
      return "f32";
  }
}

CutUnits pattern_units(const Pattern& pattern) {
  switch (pattern.kind) {
    case PatternKind::n_of_m:
      return {.rows = 1, .cols = pattern.m};
    case PatternKind::block:
      return {.rows = pattern.block_rows, .cols = pattern.block_cols};
    default:
      return {};
  }
}

void check_leaf(const Leaf& leaf) {
  if (leaf.rows < 0 || leaf.cols < 0)
    throw std::invalid_argument(
        fmt::format("leaf: expected sizes of 0 or more, found {} × {}", leaf.rows, leaf.cols));
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max() / 16;
  if (leaf.cols > 0 && leaf.rows > kMax / leaf.cols)
    throw std::invalid_argument(
        fmt::format("leaf: {} × {} weights are too many to count", leaf.rows, leaf.cols));
  if (leaf.fp8 && (leaf.bits != 8 || !leaf.zero_points.empty()))
    throw std::invalid_argument("leaf: expected fp8 codes of 8 bits without zero points");
  if (leaf.fp16 && leaf.bits != 16)
    throw std::invalid_argument("leaf: expected float16 values to have 16 bits");
  if (leaf.bits == 32 || leaf.bits == 16) {
    expect_size("values", leaf.values.size(), leaf.rows, leaf.cols);
    expect_size("codes (of float weights)", leaf.codes.size(), 0, 0);
  } else if (leaf.bits == 8 || leaf.bits == 4) {
    if (leaf.cols > 0 && (leaf.group <= 0 || leaf.cols % leaf.group != 0))
      throw std::invalid_argument(
          fmt::format("leaf: expected a group that divides {} columns, found {}", leaf.cols, leaf.group));
    if (leaf.per_channel && leaf.group != leaf.cols)
      throw std::invalid_argument(
          fmt::format("leaf: expected one group of {} columns per channel, found {}", leaf.cols, leaf.group));
    expect_size("codes", leaf.codes.size(), leaf.rows, leaf.cols);
    expect_size("scales", leaf.scales.size(), leaf.rows, leaf.groups());
    if (!leaf.zero_points.empty())
      expect_size("zero_points", leaf.zero_points.size(), leaf.rows, leaf.groups());
  } else {
    throw std::invalid_argument(fmt::format("leaf: expected 32, 16, 8 or 4 bits, found {}", leaf.bits));
  }
  if (!leaf.input_scales.empty()) expect_size("input_scales", leaf.input_scales.size(), 1, leaf.cols);
  if (!leaf.mask.empty()) expect_size("mask", leaf.mask.size(), leaf.rows, leaf.cols);
}

Leaf slice(const Leaf& leaf, Range rows, Range cols) {
  check_leaf(leaf);
  if (rows.begin < 0 || rows.end > leaf.rows || rows.begin > rows.end)
    throw std::invalid_argument(
        fmt::format("slice: expected rows within [0, {}), found [{}, {})", leaf.rows, rows.begin, rows.end));
  if (cols.begin < 0 || cols.end > leaf.cols || cols.begin > cols.end)
    throw std::invalid_argument(fmt::format("slice: expected columns within [0, {}), found [{}, {})",
                                            leaf.cols, cols.begin, cols.end));
  const int64_t unit = column_unit(leaf);
  if (cols.size() > 0) {
    expect_cut("columns", leaf.col_begin + cols.begin, unit, leaf.whole_cols);
    expect_cut("columns", leaf.col_begin + cols.end, unit, leaf.whole_cols);
  }
  if (leaf.pattern.kind == PatternKind::block && rows.size() > 0) {
    expect_cut("rows", leaf.row_begin + rows.begin, leaf.pattern.block_rows, leaf.whole_rows);
    expect_cut("rows", leaf.row_begin + rows.end, leaf.pattern.block_rows, leaf.whole_rows);
  }

  Leaf part;
  part.kind() = leaf.kind();
  part.rows = rows.size();
  part.cols = cols.size();
  part.whole_rows = leaf.whole_rows;
  part.whole_cols = leaf.whole_cols;
  part.row_begin = leaf.row_begin + rows.begin;
  part.col_begin = leaf.col_begin + cols.begin;
  if (leaf.per_channel) part.group = cols.size();
  part.values = cut(leaf.values, leaf.cols, rows, cols);
  part.codes = cut(leaf.codes, leaf.cols, rows, cols);
  part.mask = cut(leaf.mask, leaf.cols, rows, cols);
  part.input_scales = cut(leaf.input_scales, leaf.cols, {0, 1}, cols);
  if (leaf.group > 0) {
    const Range groups = leaf.per_channel
                             ? Range{0, cols.size() > 0 ? 1 : 0}
                             : Range{cols.begin / leaf.group, cols.begin / leaf.group + part.groups()};
    part.scales = cut(leaf.scales, leaf.groups(), rows, groups);
    part.zero_points = cut(leaf.zero_points, leaf.groups(), rows, groups);
  }
  return part;
}

Leaf stack_rows(const std::vector<Leaf>& parts) {
  if (parts.empty()) throw std::invalid_argument("stack_rows: expected at least one part, found none");
  Leaf whole = parts.front();
  check_leaf(whole);
  for (size_t i = 1; i < parts.size(); ++i) {
    const Leaf& part = parts[i];
    check_leaf(part);
    if (part.cols != whole.cols || part.col_begin != whole.col_begin || part.whole_rows != whole.whole_rows ||
        part.whole_cols != whole.whole_cols || part.kind() != whole.kind() ||
        part.input_scales != whole.input_scales)
      throw std::invalid_argument(fmt::format(
          "stack_rows: expected parts of the same columns and kind, found part {} of {} columns at {} "
          "beside {} columns at {}",
          i, part.cols, part.col_begin, whole.cols, whole.col_begin));
    // A part without rows has no mask or zero points to compare.
    const bool both = whole.rows > 0 && part.rows > 0 && whole.cols > 0;
    if (both &&
        (part.mask.empty() != whole.mask.empty() || part.zero_points.empty() != whole.zero_points.empty()))
      throw std::invalid_argument(fmt::format(
          "stack_rows: expected masks and zero points in all parts or in none, part {} differs", i));
    if (whole.rows == 0) whole.row_begin = part.row_begin;
    whole.rows += part.rows;
    append(whole.values, part.values);
    append(whole.codes, part.codes);
    append(whole.scales, part.scales);
    append(whole.zero_points, part.zero_points);
    append(whole.mask, part.mask);
  }
  return whole;
}

std::vector<std::byte> serialize(const Leaf& leaf) {
  check_leaf(leaf);
  Header header;
  header.rows = leaf.rows;
  header.cols = leaf.cols;
  header.whole_rows = leaf.whole_rows;
  header.whole_cols = leaf.whole_cols;
  header.row_begin = leaf.row_begin;
  header.col_begin = leaf.col_begin;
  header.bits = leaf.bits;
  header.group = leaf.group;
  header.kind = static_cast<int64_t>(leaf.pattern.kind);
  header.n = leaf.pattern.n;
  header.m = leaf.pattern.m;
  header.block_rows = leaf.pattern.block_rows;
  header.block_cols = leaf.pattern.block_cols;
  header.activation = static_cast<int64_t>(leaf.activation);
  header.per_channel = leaf.per_channel ? 1 : 0;
  header.fp8 = leaf.fp8 ? 1 : 0;
  header.fp16 = leaf.fp16 ? 1 : 0;

  size_t size = sizeof header;
  for_each_array(leaf, [&](const auto& array) { size += sizeof(int64_t) + array.size() * sizeof(array[0]); });
  std::vector<std::byte> bytes(size);
  std::byte* to = bytes.data();
  auto put = [&](const void* from, size_t count) {
    if (count > 0) std::memcpy(to, from, count);
    to += count;
  };
  put(&header, sizeof header);
  for_each_array(leaf, [&](const auto& array) {
    const auto count = static_cast<int64_t>(array.size());
    put(&count, sizeof count);
    put(array.data(), array.size() * sizeof(array[0]));
  });
  return bytes;
}

Leaf deserialize(const std::byte* bytes, int64_t size) {
  int64_t at = 0;
  auto take = [&](void* to, int64_t count) {
    if (count > size - at)
      throw std::invalid_argument(
          fmt::format("deserialize: expected {} more bytes at {}, found {}", count, at, size - at));
    if (count > 0) std::memcpy(to, bytes + at, static_cast<size_t>(count));
    at += count;
  };
  Header header;
  take(&header, sizeof header);
  if (std::memcmp(header.magic, Header{}.magic, sizeof header.magic) != 0)
    throw std::invalid_argument("deserialize: the bytes are not a serialized leaf");
  if (header.kind < 0 || header.kind > static_cast<int64_t>(PatternKind::block) || header.activation < 0 ||
      header.activation > static_cast<int64_t>(ActivationRule::fp8_per_token))
    throw std::invalid_argument("deserialize: unknown pattern or activation rule");
  Leaf leaf;
  leaf.rows = header.rows;
  leaf.cols = header.cols;
  leaf.whole_rows = header.whole_rows;
  leaf.whole_cols = header.whole_cols;
  leaf.row_begin = header.row_begin;
  leaf.col_begin = header.col_begin;
  leaf.bits = static_cast<int>(header.bits);
  leaf.group = header.group;
  leaf.pattern = {static_cast<PatternKind>(header.kind), header.n, header.m, header.block_rows,
                  header.block_cols};
  leaf.activation = static_cast<ActivationRule>(header.activation);
  leaf.per_channel = header.per_channel != 0;
  leaf.fp8 = header.fp8 != 0;
  leaf.fp16 = header.fp16 != 0;
  for_each_array(leaf, [&](auto& array) {
    int64_t count = 0;
    take(&count, sizeof count);
    const auto element = static_cast<int64_t>(sizeof(array[0]));
    if (count < 0 || count > (size - at) / element)
      throw std::invalid_argument(fmt::format("deserialize: expected at most {} elements at {}, found {}",
                                              (size - at) / element, at, count));
    array.resize(static_cast<size_t>(count));
    take(array.data(), count * element);
  });
  if (at != size)
    throw std::invalid_argument(fmt::format("deserialize: expected {} bytes in all, found {}", at, size));
  check_leaf(leaf);
  return leaf;
}

void dequantize_row(const Leaf& leaf, int64_t row, double* out, bool rounds) {
  const int64_t first = row * leaf.cols;
  if (leaf.codes.empty()) {
    for (int64_t j = 0; j < leaf.cols; ++j) out[j] = leaf.values[static_cast<size_t>(first + j)];
  } else {
    for (int64_t g = 0; g < leaf.groups(); ++g) {
      const auto at = static_cast<size_t>(row * leaf.groups() + g);
      const double scale = leaf.scales[at];
      const int zero = leaf.zero_points.empty() ? 0 : leaf.zero_points[at];
      const int8_t* codes = leaf.codes.data() + first + g * leaf.group;
      double* group = out + g * leaf.group;
      if (leaf.fp8) {
        for (int64_t j = 0; j < leaf.group; ++j)
          group[j] = scale * static_cast<double>(float_of_e4m3(static_cast<uint8_t>(codes[j])));
      } else {
        for (int64_t j = 0; j < leaf.group; ++j) group[j] = scale * (codes[j] - zero);
      }
    }
    for (int64_t j = 0; rounds && j < leaf.cols; ++j) out[j] = to_bfloat16(static_cast<float>(out[j]));
  }
  if (!leaf.input_scales.empty()) {
    for (int64_t j = 0; j < leaf.cols; ++j) out[j] /= leaf.input_scales[static_cast<size_t>(j)];
  }
  if (!leaf.mask.empty()) {
    // A dropped weight is 0 whatever its zero point says.
    for (int64_t j = 0; j < leaf.cols; ++j) {
      if (leaf.mask[static_cast<size_t>(first + j)] == 0) out[j] = 0;
    }
  }
}

}  // namespace lamina

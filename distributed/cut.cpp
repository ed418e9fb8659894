#include "distributed/cut.hpp"

#include <fmt/format.h>

#include <numeric>
#include <stdexcept>

#include "distributed/partition.hpp"

namespace lamina {
namespace {

// A cut given from outside must be one that partition() could have made.
void expect_cover(const char* what, const std::vector<Range>& cut, int64_t size, int ranks, int64_t unit) {
  int64_t next = 0;
  bool good = static_cast<int>(cut.size()) == ranks;
  for (const Range& range : cut) {
    good = good && range.begin == next && range.end >= range.begin &&
           (range.begin % unit == 0 || range.begin == size);
    next = range.end;
  }
  if (good && next == size) return;
  std::string found;
  for (const Range& range : cut) found += fmt::format(" [{}, {})", range.begin, range.end);
  throw std::invalid_argument(
      fmt::format("{}: expected {} ranges that cover [0, {}) in order, cut at multiples of {}, found{}", what,
                  ranks, size, unit, found));
}

// The same features of each half for every rank.
std::vector<std::vector<Range>> repeat_halves(const std::vector<Range>& half, int64_t half_rows,
                                              int64_t halves) {
  std::vector<std::vector<Range>> rows;
  for (const Range& range : half) {
    auto& own = rows.emplace_back();
    for (int64_t h = 0; h < halves; ++h)
      own.push_back({h * half_rows + range.begin, h * half_rows + range.end});
  }
  return rows;
}

Cut even_cut(Shape shape, Shard shard, int ranks, CutUnits unit, int64_t halves) {
  const auto [n, k] = shape;
  if (halves < 1 || n % halves != 0) {
    throw std::invalid_argument(
        fmt::format("make_cut: expected {} rows to fall into {} halves alike", n, halves));
  }
  Cut cut;
  const size_t count = static_cast<size_t>(ranks);
  if (shard == Shard::column) {
    const int64_t half = n / halves;
    if (halves > 1 && half % unit.rows != 0) {
      throw std::invalid_argument(
          fmt::format("a column shard cuts each half of {} rows alike: expected a multiple of the block's {} "
                      "rows; use another block",
                      half, unit.rows));
    }
    cut.rows = repeat_halves(partition(half, ranks, unit.rows), half, halves);
    cut.cols.assign(count, {0, k});
    return cut;
  }
  cut.rows.assign(count, {{0, n}});
  cut.reduce = shard == Shard::row;
  cut.cols = cut.reduce ? partition(k, ranks, unit.cols) : std::vector<Range>(count, {0, k});
  return cut;
}

}  // namespace

CutUnits leaf_units(const Leaf& leaf) {
  CutUnits units;
  if (leaf.group > 0 && !leaf.per_channel) units.cols = leaf.group;
  if (leaf.pattern.kind == PatternKind::n_of_m) units.cols = std::lcm(units.cols, leaf.pattern.m);
  if (leaf.pattern.kind == PatternKind::block) {
    units.cols = std::lcm(units.cols, leaf.pattern.block_cols);
    units.rows = leaf.pattern.block_rows;
  }
  return units;
}

int64_t total_size(const std::vector<Range>& ranges) {
  return std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                         [](int64_t sum, const Range& range) { return sum + range.size(); });
}

std::string to_string(Shard shard) {
  return shard == Shard::none ? "none" : shard == Shard::column ? "column" : "row";
}

Cut make_cut(Shape shape, Shard shard, int ranks, CutUnits unit, int64_t halves,
             const std::vector<Range>& row_cut, const std::vector<Range>& column_cut) {
  Cut cut = even_cut(shape, shard, ranks, unit, halves);
  if (shard == Shard::row && !row_cut.empty()) {
    expect_cover("row_cut", row_cut, shape.in_features, ranks, unit.cols);
    cut.cols = row_cut;
  }
  if (shard == Shard::column && !column_cut.empty()) {
    const int64_t half = shape.out_features / halves;
    expect_cover("column_cut", column_cut, half, ranks, unit.rows);
    cut.rows = repeat_halves(column_cut, half, halves);
  }
  return cut;
}

}  // namespace lamina

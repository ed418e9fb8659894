// How a matrix is cut over ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distributed/compress.hpp"

namespace lamina {

enum class Shard { none, column, row };
std::string to_string(Shard shard);

// How one matrix lies over ranks. Outputs: this rank computes the features in `rows`, in that order. Inputs:
// it reads the features in `cols` of x.
struct Cut {
  std::vector<std::vector<Range>> rows;  // [rank]
  std::vector<Range> cols;               // [rank]
  bool reduce = false;                   // partial sums: all-reduced after the product
};

// The cut of an N×K matrix: column cuts rows of W (each of `halves` alike, at multiples of unit.rows), row
// cuts K at multiples of unit.cols; evenly, or as `row_cut` and `column_cut` say (see ShardedOptions). Throws
// std::invalid_argument where these are none that partition() could have made.
Cut make_cut(Shape shape, Shard shard, int ranks, CutUnits unit, int64_t halves = 1,
             const std::vector<Range>& row_cut = {}, const std::vector<Range>& column_cut = {});

// Where a leaf may be cut.
CutUnits leaf_units(const Leaf& leaf);

int64_t total_size(const std::vector<Range>& ranges);

}  // namespace lamina

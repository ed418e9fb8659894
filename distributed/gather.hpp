// What every rank has of a matrix's features, put together on all of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/partition.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// Every rank's columns [S × its features] as [S × n] on every rank; `rows` are the features of each rank, in
// order.
template <class T>
Matrix<T> gather_features(const Matrix<T>& local, const std::vector<std::vector<Range>>& rows, int64_t n,
                          Communicator& comm) {
  const int64_t s = local.rows;
  std::vector<int64_t> bytes;
  int64_t total = 0;
  for (const auto& ranges : rows) {
    int64_t features = 0;
    for (const Range& range : ranges) features += range.size();
    bytes.push_back(s * features * static_cast<int64_t>(sizeof(T)));
    total += s * features;
  }
  std::vector<T> all(static_cast<size_t>(total));
  comm.all_gather(local.data.data(), all.data(), bytes);
  Matrix<T> whole(s, n);
  const T* from = all.data();
  for (const auto& ranges : rows) {
    for (int64_t i = 0; i < s; ++i) {
      for (const Range& range : ranges) {
        std::copy_n(from, range.size(), whole.row(i) + range.begin);
        from += range.size();
      }
    }
  }
  return whole;
}

// One range of rows a rank, from each rank's own.
inline std::vector<std::vector<Range>> gather_ranges(Range own, Communicator& comm) {
  std::vector<Range> all(static_cast<size_t>(comm.size()));
  comm.all_gather(&own, all.data(), std::vector<int64_t>(all.size(), sizeof(Range)));
  std::vector<std::vector<Range>> ranges;
  for (const Range& range : all) ranges.push_back({range});
  return ranges;
}

}  // namespace lamina

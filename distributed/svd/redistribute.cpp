// Where the parts of a spread matrix lie, and moving them between rows and columns.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/svd/method.hpp"

namespace lamina {
namespace {

// Elements of the `size` that place `at` of `places` holds, dealt out in blocks.
int64_t dealt(int64_t size, int64_t block, int places, int at) {
  const int64_t whole = size / block, rest = size % block;
  const int64_t rounds = whole / places, last = whole % places;
  return rounds * block + (at < last ? block : at == last ? rest : 0);
}

}  // namespace

Shape local_shape(Shape shape, const Distribution& distribution, int ranks, int rank) {
  switch (distribution.layout) {
    case Layout::rows:
      return {partition(shape.out_features, ranks, kRowBlock)[static_cast<size_t>(rank)].size(),
              shape.in_features};
    case Layout::columns:
      return {shape.out_features,
              partition(shape.in_features, ranks, kRowBlock)[static_cast<size_t>(rank)].size()};
    case Layout::block_cyclic:
      return {dealt(shape.out_features, distribution.block, distribution.grid_rows,
                    rank / distribution.grid_cols),
              dealt(shape.in_features, distribution.block, distribution.grid_cols,
                    rank % distribution.grid_cols)};
  }
  throw std::logic_error("local_shape: unknown layout");
}

namespace svd {
namespace {

// Rows → columns, or back: each rank sends pieces of what it holds whole (its rows), a few rows of its own at
// a time, so that messages stay small beside the matrix.
Matrix<float> exchange(Shape shape, bool from_rows, const Matrix<float>& local, Communicator& comm) {
  const int ranks = comm.size();
  const std::vector<Range> rows = partition(shape.out_features, ranks, kRowBlock);
  const std::vector<Range> cols = partition(shape.in_features, ranks, kRowBlock);
  const std::vector<Range>& held = from_rows ? rows : cols;
  const size_t own = static_cast<size_t>(comm.rank());
  // By rows: row chunks of all columns. By columns: the local matrix has all rows, and a chunk of every
  // receiver's rows goes at a time.
  const int64_t longest = rows[0].size();  // the first share is the largest
  const int64_t row_bytes = 4 * std::max<int64_t>(1, from_rows ? shape.in_features : ranks * held[0].size());
  const int64_t step = std::max<int64_t>(1, kMovedBytes / row_bytes);

  Matrix<float> result;
  together(comm, [&] {
    result = from_rows ? Matrix<float>(shape.out_features, cols[own].size())
                       : Matrix<float>(rows[own].size(), shape.in_features);
  });
  Messages send(static_cast<size_t>(ranks)), received;  // outside: new memory would be cleared each time
  for (int64_t first = 0; first < longest; first += step) {
    // Rows of rank r in this chunk, as places in its own range.
    const auto chunk = [&](size_t r) {
      return Range{std::min(first, rows[r].size()), std::min(first + step, rows[r].size())};
    };
    for (size_t to = 0; to < send.size(); ++to) {
      const Range moved = chunk(from_rows ? own : to);
      const int64_t width = from_rows ? cols[to].size() : local.cols;
      send[to].resize(static_cast<size_t>(4 * moved.size() * width));
      for (int64_t i = moved.begin; i < moved.end; ++i) {
        const float* from = from_rows ? local.row(i) + cols[to].begin : local.row(rows[to].begin + i);
        if (width > 0)
          std::memcpy(send[to].data() + 4 * (i - moved.begin) * width, from, static_cast<size_t>(4 * width));
      }
    }
    comm.all_to_all(send, received);
    for (size_t from = 0; from < received.size(); ++from) {
      const Range moved = chunk(from_rows ? from : own);
      const int64_t width = from_rows ? cols[own].size() : cols[from].size();
      for (int64_t i = moved.begin; i < moved.end && width > 0; ++i) {
        float* to = from_rows ? result.row(rows[from].begin + i) : result.row(i) + cols[from].begin;
        std::memcpy(to, received[from].data() + 4 * (i - moved.begin) * width,
                    static_cast<size_t>(4 * width));
      }
    }
  }
  return result;
}

}  // namespace

int64_t moving_bytes(Layout from, int64_t copy) {
  return std::min(from == Layout::block_cyclic ? kMoveBytes : 2 * kMovedBytes, 2 * copy);
}

SpreadMatrix redistribute(Shape shape, const Distribution& from, const Matrix<float>& local,
                          const Distribution& to, Communicator& comm, int threads) {
  if (from.layout == Layout::block_cyclic || to.layout == Layout::block_cyclic)
    return scalapack_redistribute(shape, from, local, to, comm, threads);
  SpreadMatrix result{shape, to, {}};
  if (from.layout == to.layout) {
    together(comm, [&] { result.local = local; });
  } else {
    result.local = exchange(shape, from.layout == Layout::rows, local, comm);
  }
  return result;
}

}  // namespace svd

SpreadMatrix redistribute(const SpreadMatrix& a, const Distribution& to, Communicator& comm, int threads) {
  return svd::redistribute(a.shape, a.distribution, a.local, to, comm, threads);
}

}  // namespace lamina

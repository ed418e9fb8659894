#include "distributed/scalapack/layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "distributed/compress.hpp"
#include "distributed/partition.hpp"

extern "C" {
void psgemr2d_(const int* m, const int* n, const float* a, const int* ia, const int* ja, const int* desc_a,
               float* b, const int* ib, const int* jb, const int* desc_b, const int* context);
void pdgemr2d_(const int* m, const int* n, const double* a, const int* ia, const int* ja, const int* desc_a,
               double* b, const int* ib, const int* jb, const int* desc_b, const int* context);
}

namespace lamina::svd {
namespace {

// A block of a matrix that is one ScaLAPACK matrix: a run of equal slabs (the last may be smaller) on as many
// ranks, or all of a block-cyclic one.
struct Piece {
  Range rows, cols;
  Grid grid;
  Descriptor descriptor;  // of the transpose
};

// Slabs are cut in whole blocks of kRowBlock, so there are two sizes of them (and a smaller last): ScaLAPACK
// has one size a matrix, so a run of equal ones is a piece of its own, on a grid of its own.
std::vector<Piece> slab_pieces(Shape shape, bool by_rows, Communicator& comm) {
  const int64_t size = by_rows ? shape.out_features : shape.in_features;
  const int64_t width = by_rows ? shape.in_features : shape.out_features;
  const std::vector<Range> cuts = partition(size, comm.size(), kRowBlock);
  std::vector<Piece> pieces;
  for (size_t first = 0, next = 0; first < cuts.size() && cuts[first].size() > 0; first = next) {
    const int64_t slab = cuts[first].size();
    for (next = first + 1; next < cuts.size() && cuts[next].size() > 0; ++next) {
      if (cuts[next - 1].size() != slab || cuts[next].size() > slab) break;
    }
    const Range range{cuts[first].begin, cuts[next - 1].end};
    const int ranks = static_cast<int>(next - first), begin = static_cast<int>(first);
    Piece piece;
    piece.rows = by_rows ? range : Range{0, width};
    piece.cols = by_rows ? Range{0, width} : range;
    piece.grid = by_rows ? grid_of(comm, begin, 1, ranks) : grid_of(comm, begin, ranks, 1);
    const int64_t leading = by_rows ? width : cuts[static_cast<size_t>(comm.rank())].size();
    piece.descriptor = by_rows ? describe(piece.grid, width, range.size(), width, slab, leading)
                               : describe(piece.grid, range.size(), width, slab, width, leading);
    pieces.push_back(piece);
  }
  return pieces;
}

std::vector<Piece> pieces_of(Shape shape, const Distribution& distribution, Communicator& comm) {
  if (distribution.layout != Layout::block_cyclic) {
    return slab_pieces(shape, distribution.layout == Layout::rows, comm);
  }
  expect_grid(distribution, comm);
  Piece piece;
  piece.rows = {0, shape.out_features};
  piece.cols = {0, shape.in_features};
  piece.grid = grid_of(comm, 0, distribution.grid_cols, distribution.grid_rows);
  piece.descriptor =
      describe(piece.grid, shape.in_features, shape.out_features, distribution.block, distribution.block,
               cyclic_size(shape.in_features, distribution.block, piece.grid.row, piece.grid.rows));
  return {piece};
}

// ScaLAPACK adds up offsets in 32 bits. The same on every rank: the largest part counts.
int64_t largest_part(Shape shape, const Distribution& distribution, const Communicator& comm) {
  int64_t largest = 0;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const Shape part = local_shape(shape, distribution, comm.size(), rank);
    largest = std::max(largest, part.out_features * part.in_features);
  }
  to_int(largest, "elements of a part");
  return largest;
}

Range intersect(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

void gemr2d(int m, int n, const float* a, int ia, int ja, const Descriptor& desc_a, float* b, int ib, int jb,
            const Descriptor& desc_b, int context) {
  psgemr2d_(&m, &n, a, &ia, &ja, desc_a.data(), b, &ib, &jb, desc_b.data(), &context);
}
void gemr2d(int m, int n, const double* a, int ia, int ja, const Descriptor& desc_a, double* b, int ib,
            int jb, const Descriptor& desc_b, int context) {
  pdgemr2d_(&m, &n, a, &ia, &ja, desc_a.data(), b, &ib, &jb, desc_b.data(), &context);
}

// Rows and columns of one piece into another.
template <class T>
void move_block(const Piece& from, const T* source, const Piece& to, T* target, Range rows, Range cols,
                int context) {
  const int m = static_cast<int>(cols.size()), n = static_cast<int>(rows.size());
  gemr2d(m, n, source, static_cast<int>(cols.begin - from.cols.begin) + 1,
         static_cast<int>(rows.begin - from.rows.begin) + 1, from.descriptor, target,
         static_cast<int>(cols.begin - to.cols.begin) + 1, static_cast<int>(rows.begin - to.rows.begin) + 1,
         to.descriptor, context);
}

template <class T>
void move_any(const View<const T>& from, const View<T>& to, Shape extent, Communicator& comm) {
  const int64_t largest = std::max(largest_part(from.shape, from.distribution, comm),
                                   largest_part(to.shape, to.distribution, comm));
  const std::vector<Piece> sources = pieces_of(from.shape, from.distribution, comm);
  const std::vector<Piece> targets = pieces_of(to.shape, to.distribution, comm);
  const Grid line = grid_of(comm, 0, 1, comm.size());
  // gemr2d takes buffers as large as both parts: so it is called for a few columns (or rows) at a time,
  // across the slabs where there are any, so that all ranks have work in each call.
  const int64_t calls = std::max<int64_t>(1, 2 * largest * static_cast<int64_t>(sizeof(T)) / kMoveBytes);
  const bool by_cols = from.distribution.layout == Layout::rows || to.distribution.layout == Layout::rows;
  const int64_t size = by_cols ? extent.in_features : extent.out_features;
  const int64_t step = std::max<int64_t>(1, (size + calls - 1) / calls);
  for (const Piece& source : sources) {
    for (const Piece& target : targets) {
      const Range rows = intersect({0, extent.out_features}, intersect(source.rows, target.rows));
      const Range cols = intersect({0, extent.in_features}, intersect(source.cols, target.cols));
      if (rows.size() == 0 || cols.size() == 0) continue;
      const Range whole = by_cols ? cols : rows;
      for (int64_t begin = whole.begin; begin < whole.end; begin += step) {
        const Range part{begin, std::min(whole.end, begin + step)};
        move_block(source, from.local, target, to.local, by_cols ? rows : part, by_cols ? part : cols,
                   line.context);
      }
    }
  }
}

}  // namespace

void expect_grid(const Distribution& distribution, const Communicator& comm) {
  const int64_t places = int64_t{distribution.grid_rows} * distribution.grid_cols;
  if (distribution.grid_rows < 1 || distribution.grid_cols < 1 || places != comm.size()) {
    throw AgreedError(fmt::format("expected a grid of all {} ranks, found {} × {}", comm.size(),
                                  distribution.grid_rows, distribution.grid_cols));
  }
  if (distribution.block < 1) {
    throw AgreedError(fmt::format("expected blocks of at least 1 row, found {}", distribution.block));
  }
}

void move(const View<const float>& from, const View<float>& to, Shape extent, Communicator& comm) {
  move_any(from, to, extent, comm);
}
void move(const View<const double>& from, const View<double>& to, Shape extent, Communicator& comm) {
  move_any(from, to, extent, comm);
}

}  // namespace lamina::svd

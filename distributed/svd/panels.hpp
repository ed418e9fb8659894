// The matrix as runs of its longer side, however it lies: what the Gram matrix and the longer side's factor
// are made of.
#pragma once

#include <functional>
#include <vector>

#include "distributed/svd/method.hpp"
#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

// A's sides by length. Of equal ones, the side that is cut over ranks counts as the longer.
struct Sides {
  Sides(Shape shape, Layout layout);
  explicit Sides(const Input& input) : Sides(input.shape, input.distribution.layout) {}
  // Whether ranks hold pieces of the longer side, of a matrix by rows or columns.
  bool lie_apart(Layout layout) const { return (layout == Layout::rows) == long_is_rows; }
  bool long_is_rows;
  int64_t small, longer;
};

// This rank's share of the longer side, some of it at a time: work(first, depth, panel), where panel [depth ×
// small side] holds A's elements in T, float or double, times `scale` of their place on the smaller side
// (powers of two; empty for ones), and first counts from the share's begin in multiples of kRowBlock. Where A
// lies along the longer side nothing moves; else each panel comes by an all_to_all. Every rank makes the same
// number of calls, some with a depth of 0. `work` runs on the calling thread. Collective.
template <class T>
using PanelWork = std::function<void(int64_t first, int64_t depth, const Matrix<T>& panel)>;
template <class T>
void for_each_panel(const Input& input, const std::vector<double>& scale, TimedCommunicator& comm,
                    int threads, const PanelWork<T>& work);

// Bytes of for_each_panel's own at most, of numbers so long.
int64_t panel_bytes(const Shape& shape, int ranks, int64_t number_bytes = 8);

// Powers of two at or above the norms along the smaller side (columns of A where its rows are longer), 0 for
// zeros. The same for any number of ranks. Collective.
std::vector<double> small_side_norms(const Input& input, TimedCommunicator& comm);

// A power of two at or above the norm of `count` numbers, of which `most` is the largest magnitude and
// `squares` the sum of squares on the grid of `shift`; 0 for zeros.
double norm_power(double squares, double most, int64_t count, double shift);

// AᵀA of the smaller side on every rank, in float64, summed exactly over blocks of kRowBlock of the longer
// side: bitwise the same for any number of ranks and threads, and layouts, but for a square A, where
// these choose the side. Collective.
SymmetricTiles gram_tiles(const Input& input, TimedCommunicator& comm, int threads);

}  // namespace lamina::svd

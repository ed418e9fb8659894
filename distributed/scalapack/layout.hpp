// Layouts of a Distribution as ScaLAPACK knows them, and copies between them by p?gemr2d.
#pragma once

#include "distributed/scalapack.hpp"
#include "distributed/scalapack/blacs.hpp"
#include "distributed/svd.hpp"

namespace lamina::svd {

// One part of a matrix [rows × cols, row-major over ranks] of a type: its transpose is what ScaLAPACK sees.
template <class T>
struct View {
  Shape shape;  // of the whole
  Distribution distribution;
  T* local = nullptr;
};

// The upper left `extent` of one matrix into that of another, whatever their layouts: exact copies. Buffers
// beside both parts stay within kMoveBytes on each rank. Collective; AgreedError where a grid does not fit
// the ranks or a part holds 2^31 elements.
void move(const View<const float>& from, const View<float>& to, Shape extent, Communicator& comm);
void move(const View<const double>& from, const View<double>& to, Shape extent, Communicator& comm);

// Throws AgreedError unless a block-cyclic layout's grid takes all ranks.
void expect_grid(const Distribution& distribution, const Communicator& comm);

}  // namespace lamina::svd

// BLACS grids over a communicator's ranks, and the calls of BLACS and ScaLAPACK that are used here.
#pragma once

#include <mpi.h>

#include <array>

#include "distributed/communicator.hpp"

extern "C" {
int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridmap(int* context, int* ranks, int leading, int rows, int cols);
void Cblacs_gridinfo(int context, int* rows, int* cols, int* row, int* col);
void Cblacs_gridexit(int context);
}

namespace lamina::svd {

// Ranks [first, first + rows·cols), column by column on a grid. Our matrices are row-major and ScaLAPACK's
// column-major, so what it sees are their transposes: ranks that stand row by row on the grid of a
// Distribution stand column by column on this one.
struct Grid {
  int context = -1;  // -1 on ranks outside
  int rows = 0, cols = 0;
  int row = -1, col = -1;  // this rank's place; -1 outside
  bool inside() const { return context >= 0; }
};

// Made at the first call and kept with the communicator's MPI communicator, whose end frees it: on all ranks
// in the same order, before MPI_Finalize. Collective over `comm`; throws AgreedError where `comm` is not
// MPI's or more ranks are asked for than it has. MPI's errors on the grid end the job, as BLACS looks at
// none.
Grid grid_of(Communicator& comm, int first, int rows, int cols);
// The grid as MPI knows it: for libraries that take a communicator and a place. The same for all grids of
// `comm`.
int grid_communicator(Communicator& comm);

// An array descriptor; the first block lies on the first rank.
using Descriptor = std::array<int, 9>;
// Throws AgreedError where a side does not fit 32 bits. `leading` may be 0.
Descriptor describe(const Grid& grid, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                    int64_t leading);

// How many of `size` rows (columns) in blocks fall to one place of several.
int64_t cyclic_size(int64_t size, int64_t block, int place, int places);
// Where the local row `i` lies in the whole.
inline int64_t cyclic_index(int64_t i, int64_t block, int place, int places) {
  return (i / block * places + place) * block + i % block;
}

// Checked narrowing: throws AgreedError naming `what`. Only for values that all ranks share.
int to_int(int64_t value, const char* what);

}  // namespace lamina::svd

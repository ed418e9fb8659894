#include "distributed/scalapack/eigen_layout.hpp"

#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/compress.hpp"
#include "distributed/partition.hpp"

namespace lamina::svd {

Distribution squarest(int ranks, int64_t block) {
  int least = static_cast<int>(std::sqrt(static_cast<double>(ranks)));
  while (ranks % least != 0) --least;
  return {Layout::block_cyclic, ranks / least, least, block};
}

BlockCyclic::BlockCyclic(int64_t size_, int64_t block, Communicator& comm)
    : size(size_),
      distribution(squarest(comm.size(), block)),
      grid(grid_of(comm, 0, distribution.grid_cols, distribution.grid_rows)),
      rows(cyclic_size(size, block, grid.row, grid.rows)),
      cols(cyclic_size(size, block, grid.col, grid.cols)),
      descriptor(describe(grid, size, size, block, block, rows)) {
  // The largest part, which the first rank has: the same refusal on all.
  to_int(cyclic_size(size, block, 0, grid.rows) * cyclic_size(size, block, 0, grid.cols),
         "elements of a part");
}

std::vector<double> BlockCyclic::take(SymmetricTiles&& matrix, double sign) const {
  const int64_t block = distribution.block;
  std::vector<double> local(static_cast<size_t>(rows * cols));
  for (int64_t j = 0; j < cols; j += block) {
    const int64_t to_col = cyclic_index(j, block, grid.col, grid.cols);
    for (int64_t i = 0; i < rows; i += block) {
      const int64_t to_row = cyclic_index(i, block, grid.row, grid.rows);
      // Symmetric: its columns are its rows.
      matrix.copy({to_col, to_col + std::min(block, cols - j)}, {to_row, to_row + std::min(block, rows - i)},
                  local.data() + j * rows + i, rows);
    }
  }
  matrix = SymmetricTiles();
  if (sign != 1) {
    for (double& x : local) x *= sign;
  }
  return local;
}

int64_t BlockCyclic::vector_cols(int64_t count) const {
  return cyclic_size(count, distribution.block, grid.col, grid.cols);
}

Matrix<double> BlockCyclic::gather(const std::vector<double>& vectors, int64_t width, int64_t count,
                                   Communicator& comm) const {
  Matrix<double> all;
  together(comm, [&] { all = Matrix<double>(count, size); });
  const std::vector<Range> slabs = partition(count, comm.size(), kRowBlock);
  double* own = all.row(slabs[static_cast<size_t>(comm.rank())].begin);
  move({{width, size}, distribution, vectors.data()}, View<double>{{count, size}, {}, own}, {count, size},
       comm);
  std::vector<int64_t> bytes;
  for (const Range& slab : slabs) bytes.push_back(slab.size() * size * static_cast<int64_t>(sizeof(double)));
  comm.all_gather(own, all.data.data(), bytes);
  return all;
}

}  // namespace lamina::svd

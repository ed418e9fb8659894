// Leading eigenvectors of a symmetric matrix by ELPA (Marek et al. 2014): to a tridiagonal matrix in one
// step, divide and conquer, and back. Its way in two steps, through a band, takes longer with the plain
// kernels that Debian builds.
#include <elpa/elpa.h>
#include <fmt/format.h>

#include <algorithm>

#include "distributed/agree.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/scalapack/eigen_layout.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kBlock = 64;

// One solver of one matrix.
class Solver {
 public:
  Solver(const BlockCyclic& layout, int64_t count, Communicator& comm) {
    const int comm_handle = grid_communicator(comm);
    static const bool ready = elpa_init(20170403) == ELPA_OK;  // the oldest interface with all of this
    int error = ready ? ELPA_OK : ELPA_ERROR_API_VERSION;
    if (ready) handle_ = elpa_allocate(&error);
    const std::pair<const char*, int64_t> settings[] = {{"na", layout.size},
                                                        {"nev", count},
                                                        {"local_nrows", std::max<int64_t>(1, layout.rows)},
                                                        {"local_ncols", std::max<int64_t>(1, layout.cols)},
                                                        {"nblk", kBlock},
                                                        {"mpi_comm_parent", comm_handle},
                                                        {"process_row", layout.grid.row},
                                                        {"process_col", layout.grid.col}};
    for (const auto& [name, value] : settings) {
      if (error == ELPA_OK) elpa_set_integer(handle_, name, static_cast<int>(value), &error);
    }
    if (error == ELPA_OK) error = elpa_setup(handle_);
    if (error == ELPA_OK) elpa_set_integer(handle_, "solver", ELPA_SOLVER_1STAGE, &error);
    comm.require(error == ELPA_OK ? "" : fmt::format("ELPA cannot be set up, code {}", error));
  }
  ~Solver() {
    int error = 0;
    if (handle_ != nullptr) elpa_deallocate(handle_, &error);
  }
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;

  void solve(std::vector<double>& a, std::vector<double>& values, std::vector<double>& vectors,
             Communicator& comm) {
    int error = 0;
    elpa_eigenvectors_a_h_a_d(handle_, a.data(), values.data(), vectors.data(), &error);
    comm.require(error == ELPA_OK ? "" : fmt::format("ELPA failed, code {}", error));
  }

 private:
  elpa_t handle_ = nullptr;
};

}  // namespace

std::string elpa_absent() {
  return "";
}

Eigenpairs elpa_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm, int threads) {
  const BlasThreads blas(threads);
  const BlockCyclic layout(matrix.size(), kBlock, comm);
  // ELPA refuses ranks without a part.
  if (layout.size <= kBlock * (std::max(layout.grid.rows, layout.grid.cols) - 1))
    return lapack_eigen(std::move(matrix), choose, comm, threads);
  std::vector<double> a, vectors;
  Eigenpairs result;
  // ELPA finds the smallest, so of the matrix's negative; and it wants to know how many before any is known.
  int64_t most = 0;
  together(comm, [&] {
    result.values.resize(static_cast<size_t>(layout.size));
    most = std::max<int64_t>(1, choose(result.values));
    a = layout.take(std::move(matrix), -1);
    a.resize(std::max<size_t>(1, a.size()));
    vectors.resize(a.size());
  });
  Solver(layout, most, comm).solve(a, result.values, vectors, comm);
  a = {};
  for (double& value : result.values) value = -value;
  comm.broadcast(result.values.data(), layout.size * static_cast<int64_t>(sizeof(double)), 0);
  result.vectors = layout.gather(vectors, layout.size, std::min(most, choose(result.values)), comm);
  return result;
}

int64_t elpa_eigen_bytes(int64_t size, int64_t rank, int ranks) {
  const int64_t share = (size * size + ranks - 1) / ranks;
  // Matrix, vectors, and as much again in workspace while it merges; then the vectors whole.
  // The tiles are gone once they are dealt out.
  return 8 *
         (std::max(4 * share, share + rank * size + std::min(kMoveBytes / 8, 2 * share)) - size * size / 2);
}

}  // namespace lamina::svd

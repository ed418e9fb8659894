#include "distributed/scalapack/blacs.hpp"

#include <fmt/format.h>

#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <vector>

#include "distributed/mpi/group.hpp"

namespace lamina::svd {
namespace {

// What BLACS keeps for one MPI communicator. It has a duplicate of its own: BLACS's messages meet no others,
// and an error there cannot go unseen.
struct Contexts {
  MPI_Comm comm = MPI_COMM_NULL;
  int system = -1;
  std::map<std::tuple<int, int, int>, int> grids;  // first, rows, cols → context
};

// MPI calls this where the communicator is freed, at the same point of every rank's program.
int free_contexts(MPI_Comm, int, void* value, void*) {
  auto* contexts = static_cast<Contexts*>(value);
  for (const auto& [key, context] : contexts->grids) {
    if (context >= 0) Cblacs_gridexit(context);
  }
  Cfree_blacs_system_handle(contexts->system);
  const int code = MPI_Comm_free(&contexts->comm);
  delete contexts;
  return code;
}

MPI_Comm mpi_communicator(const Communicator& comm) {
  if (comm.mpi_handle() != -1) return MPI_Comm_f2c(comm.mpi_handle());
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  if (comm.size() == 1 && begun && !ended) return MPI_COMM_SELF;
  throw AgreedError(
      fmt::format("ScaLAPACK: expected ranks over MPI, found the communicator '{}'", comm.name()));
}

Contexts& contexts_of(const Communicator& comm) {
  static const int key = [] {
    int made = MPI_KEYVAL_INVALID;
    check_mpi(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, free_contexts, &made, nullptr),
              "MPI_Comm_create_keyval");
    return made;
  }();
  const MPI_Comm mpi = mpi_communicator(comm);
  void* value = nullptr;
  int found = 0;
  check_mpi(MPI_Comm_get_attr(mpi, key, &value, &found), "MPI_Comm_get_attr");
  if (found) return *static_cast<Contexts*>(value);
  auto* contexts = new Contexts;
  check_mpi(MPI_Comm_dup(mpi, &contexts->comm), "MPI_Comm_dup");
  check_mpi(MPI_Comm_set_errhandler(contexts->comm, MPI_ERRORS_ARE_FATAL), "MPI_Comm_set_errhandler");
  contexts->system = Csys2blacs_handle(contexts->comm);
  check_mpi(MPI_Comm_set_attr(mpi, key, contexts), "MPI_Comm_set_attr");
  return *contexts;
}

}  // namespace

Grid grid_of(Communicator& comm, int first, int rows, int cols) {
  // BLACS would end the job over a bad grid.
  if (first < 0 || rows < 1 || cols < 1 || int64_t{first} + int64_t{rows} * cols > comm.size()) {
    throw AgreedError(
        fmt::format("ScaLAPACK: expected a grid of at most {} ranks, found {} × {} from rank {}", comm.size(),
                    rows, cols, first));
  }
  Contexts& contexts = contexts_of(comm);
  const auto [entry, made] = contexts.grids.try_emplace({first, rows, cols}, -1);
  if (made) {
    std::vector<int> ranks(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    std::iota(ranks.begin(), ranks.end(), first);
    int context = contexts.system;
    Cblacs_gridmap(&context, ranks.data(), rows, rows, cols);
    const int place = comm.rank() - first;
    entry->second = place >= 0 && place < rows * cols ? context : -1;
  }
  Grid grid{entry->second, rows, cols, -1, -1};
  if (grid.inside()) {
    grid.row = (comm.rank() - first) % rows;
    grid.col = (comm.rank() - first) / rows;
  }
  return grid;
}

int grid_communicator(Communicator& comm) {
  return MPI_Comm_c2f(contexts_of(comm).comm);
}

Descriptor describe(const Grid& grid, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols,
                    int64_t leading) {
  return {1,
          grid.context,
          to_int(rows, "rows"),
          to_int(cols, "columns"),
          to_int(block_rows, "rows of a block"),
          to_int(block_cols, "columns of a block"),
          0,
          0,
          std::max(1, to_int(leading, "rows of a part"))};
}

int64_t cyclic_size(int64_t size, int64_t block, int place, int places) {
  const int64_t whole = size / block, rounds = whole / places, left = whole % places;
  return rounds * block + (place < left ? block : place == left ? size % block : 0);
}

int to_int(int64_t value, const char* what) {
  if (value > std::numeric_limits<int>::max()) {
    throw AgreedError(
        fmt::format("ScaLAPACK counts {} with 32 bits: expected less than 2^31, found {}; use more "
                    "ranks, or another method",
                    what, value));
  }
  return static_cast<int>(value);
}

}  // namespace lamina::svd

#include "distributed/svd/sketch_eigen.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void dsytrd_(const char*, const int*, double*, const int*, double*, double*, double*, double*, const int*,
             int*);
void dsterf_(const int*, double*, double*, int*);
void dstedc_(const char*, const int*, double*, double*, double*, const int*, double*, const int*, int*,
             const int*, int*);
void dormtr_(const char*, const char*, const char*, const int*, const int*, const double*, const int*,
             const double*, double*, const int*, double*, const int*, int*);
}

namespace lamina::svd {
namespace {

constexpr int64_t kTurned = 64;       // vectors that are turned back together
constexpr int64_t kWorkColumns = 64;  // LAPACK's blocks at the most

void check_info(const char* routine, int info, int64_t size) {
  if (info != 0) {
    throw std::runtime_error(
        fmt::format("LAPACK's {} failed on a {} × {} matrix (info {})", routine, size, size, info));
  }
}

}  // namespace

int64_t sketch_eigen_work(int64_t size) {
  return std::max(kWorkColumns * size, 1 + 4 * size + size * size);
}

Eigenpairs sketch_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm) {
  const int64_t size = matrix.size();
  const BlasThreads single(1);
  Eigenpairs pairs;
  std::vector<double> a, tau;
  Matrix<double> of_tridiagonal;  // column-major columns are row-major rows, smallest value first
  int n = 0, work_size = 0;
  int64_t rank = 0;
  together(comm, [&] {
    const SymmetricTiles tiles = std::move(matrix);
    n = blas_int(size);
    work_size = blas_int(sketch_eigen_work(size));
    const int int_size = blas_int(3 + 5 * size);
    pairs.values.resize(static_cast<size_t>(size));
    tau.resize(static_cast<size_t>(size));
    a.resize(static_cast<size_t>(size * size));
    if (comm.rank() != 0) return;
    tiles.copy({0, size}, {0, size}, a.data(), size);
    std::vector<double> d(static_cast<size_t>(size)), e(d), work(static_cast<size_t>(work_size));
    int info = 0;
    dsytrd_("L", &n, a.data(), &n, d.data(), e.data(), tau.data(), work.data(), &work_size, &info);
    check_info("dsytrd", info, size);
    std::vector<double> rest(e);
    pairs.values = d;
    dsterf_(&n, pairs.values.data(), rest.data(), &info);
    check_info("dsterf", info, size);
    std::reverse(pairs.values.begin(), pairs.values.end());
    rank = std::clamp<int64_t>(choose(pairs.values), 0, size);
    if (rank == 0) return;
    std::vector<int> int_work(static_cast<size_t>(int_size));
    of_tridiagonal = Matrix<double>(size, size);
    dstedc_("I", &n, d.data(), e.data(), of_tridiagonal.data.data(), &n, work.data(), &work_size,
            int_work.data(), &int_size, &info);
    check_info("dstedc", info, size);
  });
  comm.broadcast(&rank, sizeof(rank), 0);
  comm.broadcast(pairs.values.data(), 8 * size, 0);
  if (rank == 0) {
    pairs.vectors = Matrix<double>(0, size);
    return pairs;
  }
  // The reflectors go to all; of the vectors, largest first, each rank gets those that it turns.
  comm.broadcast(a.data(), 8 * size * size, 0);
  comm.broadcast(tau.data(), 8 * size, 0);
  const std::vector<Range> shares = partition(rank, comm.size(), kTurned);
  const Range own = shares[static_cast<size_t>(comm.rank())];
  Messages send(shares.size());
  together(comm, [&] {
    pairs.vectors = Matrix<double>(rank, size);
    if (comm.rank() != 0) return;
    for (size_t r = 0; r < shares.size(); ++r) {
      for (int64_t i = shares[r].begin; i < shares[r].end; ++i) {
        const auto* bytes = reinterpret_cast<const std::byte*>(of_tridiagonal.row(size - 1 - i));
        send[r].insert(send[r].end(), bytes, bytes + 8 * size);
      }
    }
    of_tridiagonal = {};
  });
  const Messages received = comm.all_to_all(send);
  together(comm, [&] {
    const auto* from = reinterpret_cast<const double*>(received[0].data());
    std::copy_n(from, own.size() * size, pairs.vectors.row(own.begin));
    std::vector<double> work(static_cast<size_t>(kWorkColumns * size));
    const int work_turn = static_cast<int>(work.size());
    for (int64_t first = own.begin; first < own.end; first += kTurned) {
      const int count = static_cast<int>(std::min(kTurned, own.end - first));
      int info = 0;
      dormtr_("L", "L", "N", &n, &count, a.data(), &n, tau.data(), pairs.vectors.row(first), &n, work.data(),
              &work_turn, &info);
      check_info("dormtr", info, size);
    }
  });
  std::vector<int64_t> bytes;
  for (const Range& share : shares) bytes.push_back(8 * share.size() * size);
  comm.all_gather(pairs.vectors.row(own.begin), pairs.vectors.data.data(), bytes);
  return pairs;
}

}  // namespace lamina::svd

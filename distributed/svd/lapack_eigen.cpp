// Leading eigenpairs by LAPACK's parts: all eigenvalues are cheap once the matrix is tridiagonal, and vectors
// are made of the first r alone.
#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/svd/symmetric.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void dsytrd_(const char*, const int*, double*, const int*, double*, double*, double*, double*, const int*,
             int*);
void dsterf_(const int*, double*, double*, int*);
void dstemr_(const char*, const char*, const int*, double*, double*, const double*, const double*, const int*,
             const int*, int*, double*, double*, const int*, const int*, int*, int*, double*, const int*,
             int*, const int*, int*);
void dormtr_(const char*, const char*, const char*, const int*, const int*, const double*, const int*,
             const double*, double*, const int*, double*, const int*, int*);
}

namespace lamina::svd {
namespace {

constexpr int64_t kWorkColumns = 64;  // LAPACK's blocks at the most

void check_info(const char* routine, int info, int64_t size) {
  if (info != 0)
    throw std::runtime_error(
        fmt::format("LAPACK's {} failed on a {} × {} matrix (info {})", routine, size, size, info));
}

}  // namespace

Eigenpairs lapack_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm, int threads) {
  const int64_t size = matrix.size();
  Eigenpairs pairs;
  int64_t rank = 0;
  together(comm, [&] {
    SymmetricTiles tiles = std::move(matrix);
    const int n = blas_int(size), work_size = blas_int(kWorkColumns * size);
    pairs.values.resize(static_cast<size_t>(size));
    if (comm.rank() != 0) return;
    const BlasThreads blas(threads);
    PagedVector<double> a(static_cast<size_t>(size * size));
    tiles.copy({0, size}, {0, size}, a.data(), size);
    tiles = SymmetricTiles();
    std::vector<double> d(static_cast<size_t>(size)), e(d), tau(d), work(static_cast<size_t>(work_size));
    int info = 0;
    dsytrd_("L", &n, a.data(), &n, d.data(), e.data(), tau.data(), work.data(), &work_size, &info);
    check_info("dsytrd", info, size);
    std::vector<double> rest(e);
    pairs.values = d;
    dsterf_(&n, pairs.values.data(), rest.data(), &info);
    check_info("dsterf", info, size);
    std::reverse(pairs.values.begin(), pairs.values.end());
    rank = std::clamp<int64_t>(choose(pairs.values), 0, size);
    pairs.vectors = Matrix<double>(rank, size);
    if (rank == 0) return;
    const int first = static_cast<int>(size - rank + 1);
    int found = 0, try_accurate = 1;
    const double none = 0;
    const int want = static_cast<int>(rank), work_want = blas_int(18 * size), int_want = blas_int(10 * size);
    std::vector<double> w(static_cast<size_t>(size)), small_work(static_cast<size_t>(work_want));
    std::vector<int> support(static_cast<size_t>(2 * rank)), int_work(static_cast<size_t>(int_want));
    double* z = pairs.vectors.data.data();
    dstemr_("V", "I", &n, d.data(), e.data(), &none, &none, &first, &n, &found, w.data(), z, &n, &want,
            support.data(), &try_accurate, small_work.data(), &work_want, int_work.data(), &int_want, &info);
    check_info("dstemr", info, size);
    if (found != want)
      throw std::runtime_error(fmt::format("LAPACK's dstemr found {} of {} eigenvectors", found, want));
    dormtr_("L", "L", "N", &n, &want, a.data(), &n, tau.data(), z, &n, work.data(), &work_size, &info);
    check_info("dormtr", info, size);
    // Column-major columns are row-major rows; the smallest of them comes first.
    for (int64_t i = 0, j = rank - 1; i < j; ++i, --j) {
      std::swap_ranges(pairs.vectors.row(i), pairs.vectors.row(i) + size, pairs.vectors.row(j));
    }
  });
  comm.broadcast(&rank, sizeof(rank), 0);
  together(comm, [&] {
    if (comm.rank() != 0) pairs.vectors = Matrix<double>(rank, size);
  });
  comm.broadcast(pairs.values.data(), 8 * size, 0);
  comm.broadcast(pairs.vectors.data.data(), 8 * rank * size, 0);
  return pairs;
}

}  // namespace lamina::svd

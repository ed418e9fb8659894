// Leading eigenvectors of a symmetric matrix over ranks: ScaLAPACK reduces it to a tridiagonal one and brings
// the vectors back, LAPACK's MRRR (Dhillon, Parlett, Vömel 2006) finds them, each rank its share.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/scalapack/eigen_layout.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void pdsyntrd_(const char* uplo, const int* n, double* a, const int* ia, const int* ja, const int* desc,
               double* d, double* e, double* tau, double* work, const int* lwork, int* info);
void pdormtr_(const char* side, const char* uplo, const char* trans, const int* m, const int* n,
              const double* a, const int* ia, const int* ja, const int* desc_a, const double* tau, double* c,
              const int* ic, const int* jc, const int* desc_c, double* work, const int* lwork, int* info);
int pjlaenv_(const int* context, const int* what, const char* name, const char* options, const int* n1,
             const int* n2, const int* n3, const int* n4, size_t name_length, size_t options_length);
void dsterf_(const int* n, double* d, double* e, int* info);
void dstemr_(const char* job, const char* range, const int* n, double* d, double* e, const double* low,
             const double* high, const int* first, const int* last, int* found, double* w, double* z,
             const int* ldz, const int* columns, int* support, int* try_accurate, double* work,
             const int* lwork, int* iwork, const int* liwork, int* info);
}

namespace lamina::svd {
namespace {

constexpr int64_t kBlock = 32;
// Vectors that ranks found on their own: a product above this, and every rank finds all of them.
constexpr double kOrthogonal = 1e-10;
constexpr int64_t kCheckRows = 128;

// T, tied to columns of the matrix and the same down each column of ranks, whole on every rank. Collective.
struct Tridiagonal {
  std::vector<double> d, e;
};

std::vector<double> gather_columns(const std::vector<double>& own, const BlockCyclic& layout,
                                   Communicator& comm) {
  std::vector<double> all(static_cast<size_t>(layout.size));
  for (int64_t j = 0; j < layout.cols && layout.grid.row == 0; ++j) {
    const int64_t place = cyclic_index(j, layout.distribution.block, layout.grid.col, layout.grid.cols);
    all[static_cast<size_t>(place)] = own[static_cast<size_t>(j)];
  }
  comm.all_reduce(all.data(), all.data(), layout.size, DType::f64, ReduceOp::sum);  // one of them is not 0
  return all;
}

// Householder vectors stay in `a`, their factors in `tau`.
Tridiagonal tridiagonalize(std::vector<double>& a, std::vector<double>& tau, const BlockCyclic& layout,
                           Communicator& comm) {
  const int n = to_int(layout.size, "rows"), one = 1, zero = 0, three = 3;
  // pdsyntrd's tailored code runs on the largest square of ranks and takes copies of the matrix there; alone
  // or on two or three ranks that is one, so there the plain code is the faster.
  const int64_t square = static_cast<int64_t>(std::sqrt(static_cast<double>(comm.size())));
  int64_t size = std::max(kBlock * (layout.rows + 1), 3 * kBlock);
  if (square > 1) {
    const int64_t panel =
        pjlaenv_(&layout.grid.context, &three, "PDSYTTRD", "L", &zero, &zero, &zero, &zero, 8, 1);
    const int64_t part = std::max((layout.size + square - 1) / square, 2 * panel);
    size = std::max(size, 2 * (panel + 1) * (4 * part + 2) + (part + 4) * part);
  }
  const int lwork = to_int(size, "workspace");
  std::vector<double> d, e, work;
  together(comm, [&] {
    d.resize(static_cast<size_t>(layout.cols) + 1);
    e.resize(d.size());
    tau.resize(d.size());
    work.resize(static_cast<size_t>(size));
  });
  int info = 0;
  pdsyntrd_("L", &n, a.data(), &one, &one, layout.descriptor.data(), d.data(), e.data(), tau.data(),
            work.data(), &lwork, &info);
  comm.require(info == 0 ? "" : fmt::format("pdsyntrd failed, code {}", info));
  return {gather_columns(d, layout, comm), gather_columns(e, layout, comm)};
}

// All eigenvalues, smallest first, as the first rank finds them: all ranks then decide alike. Collective.
std::vector<double> eigenvalues(const Tridiagonal& t, Communicator& comm) {
  std::vector<double> values = t.d, e = t.e;
  together(comm, [&] {
    if (comm.rank() != 0) return;
    const int n = static_cast<int>(values.size());
    int info = 0;
    dsterf_(&n, values.data(), e.data(), &info);
    if (info != 0) throw std::runtime_error(fmt::format("dsterf failed, code {}", info));
  });
  comm.broadcast(values.data(), static_cast<int64_t>(values.size() * sizeof(double)), 0);
  return values;
}

// Vectors of the eigenvalues [range), counted from the smallest, as columns.
std::vector<double> vectors_of(const Tridiagonal& t, Range range) {
  const auto n = static_cast<int>(t.d.size());
  const int columns = static_cast<int>(range.size());
  std::vector<double> z(t.d.size() * static_cast<size_t>(columns));
  if (columns == 0) return z;
  std::vector<double> d = t.d, e = t.e, w(t.d.size()), work(18 * t.d.size());
  std::vector<int> integers(10 * t.d.size()), support(2 * static_cast<size_t>(columns));
  e.resize(t.d.size());
  const int first = static_cast<int>(range.begin) + 1, last = static_cast<int>(range.end);
  const int lwork = 18 * n, liwork = 10 * n;
  int found = 0, accurate = 1, info = 0;
  const double none = 0;
  dstemr_("V", "I", &n, d.data(), e.data(), &none, &none, &first, &last, &found, w.data(), z.data(), &n,
          &columns, support.data(), &accurate, work.data(), &lwork, integers.data(), &liwork, &info);
  if (info != 0 || found != columns)
    throw std::runtime_error(
        fmt::format("dstemr failed, code {}, found {} of {} vectors", info, found, columns));
  return z;
}

// [size − count, size) cut for the ranks, near even, where neighbours are far from each other: vectors of a
// cluster are orthogonal only when found together.
std::vector<Range> shares(const std::vector<double>& values, int64_t count, int ranks) {
  const auto size = static_cast<int64_t>(values.size());
  const int64_t first = size - count, reach = count / (4 * ranks);
  std::vector<Range> cuts;
  int64_t begin = first;
  for (int rank = 1; rank <= ranks; ++rank) {
    const int64_t even = first + count * rank / ranks;
    int64_t best = even;
    double widest = -1;
    for (int64_t cut = std::max(begin, even - reach); rank < ranks && cut <= even + reach; ++cut) {
      if (cut <= first) continue;
      const double low = values[static_cast<size_t>(cut - 1)], high = values[static_cast<size_t>(cut)];
      const double gap = (high - low) / std::max(std::abs(high), std::abs(low));
      if (gap > widest) {
        widest = gap;
        best = cut;
      }
    }
    cuts.push_back({begin, best});
    begin = best;
  }
  return cuts;
}

// Columns that ranks hold whole, each its share, cut into blocks; the last becomes the first, as the largest
// eigenvalue leads. Collective.
std::vector<double> deal_out(const std::vector<double>& own, const std::vector<Range>& cuts, int64_t count,
                             const BlockCyclic& layout, Communicator& comm) {
  const int64_t size = layout.size, block = layout.distribution.block;
  const Grid& grid = layout.grid;
  const auto target_of = [&](int64_t column) { return size - 1 - column; };  // of the value's place
  const Range mine = cuts[static_cast<size_t>(comm.rank())];
  Messages send(static_cast<size_t>(comm.size()));
  // Per target rank: for each of my columns that it has a part of, its rows in order.
  for (int rank = 0; rank < comm.size(); ++rank) {
    const int row = rank % grid.rows, col = rank / grid.rows;
    Message& message = send[static_cast<size_t>(rank)];
    for (int64_t j = mine.begin; j < mine.end; ++j) {
      if (target_of(j) / block % grid.cols != col) continue;
      const double* column = own.data() + (j - mine.begin) * size;
      for (int64_t i = row * block; i < size; i += grid.rows * block) {
        const auto* from = reinterpret_cast<const std::byte*>(column + i);
        message.insert(message.end(), from,
                       from + sizeof(double) * static_cast<size_t>(std::min(block, size - i)));
      }
    }
  }
  const Messages received = comm.all_to_all(send);
  std::vector<double> local(static_cast<size_t>(layout.rows * layout.vector_cols(count)));
  for (size_t rank = 0; rank < received.size(); ++rank) {
    const std::byte* from = received[rank].data();
    for (int64_t j = cuts[rank].begin; j < cuts[rank].end; ++j) {
      const int64_t target = target_of(j);
      if (target / block % grid.cols != grid.col) continue;
      const int64_t column = target / block / grid.cols * block + target % block;
      const size_t bytes = sizeof(double) * static_cast<size_t>(layout.rows);
      if (bytes > 0) std::memcpy(local.data() + column * layout.rows, from, bytes);
      from += bytes;
    }
  }
  return local;
}

// Q·z: the tridiagonal matrix's vectors become the matrix's own. Collective.
void bring_back(const std::vector<double>& a, const std::vector<double>& tau, std::vector<double>& z,
                int64_t count, const BlockCyclic& layout, Communicator& comm) {
  const int n = static_cast<int>(layout.size), wanted = static_cast<int>(count), one = 1;
  const Descriptor columns = describe(layout.grid, layout.size, count, kBlock, kBlock, layout.rows);
  const int64_t panel = (layout.vector_cols(count) + layout.rows) * kBlock;
  const int lwork = to_int(std::max(kBlock * (kBlock - 1) / 2, panel) + kBlock * kBlock, "workspace");
  std::vector<double> work;
  together(comm, [&] { work.resize(static_cast<size_t>(lwork)); });
  int info = 0;
  pdormtr_("L", "L", "N", &n, &wanted, a.data(), &one, &one, layout.descriptor.data(), tau.data(), z.data(),
           &one, &one, columns.data(), work.data(), &lwork, &info);
  comm.require(info == 0 ? "" : fmt::format("pdormtr failed, code {}", info));
}

// Are the vectors that ranks found on their own orthogonal to each other's? Each rank holds its share against
// all of smaller eigenvalues. Collective.
bool orthogonal(const Matrix<double>& vectors, Range share, int64_t size, Communicator& comm) {
  const int64_t first = size - share.end, own = share.size();  // the largest come first
  const int64_t others = vectors.rows - (first + own);
  double worst = 0;
  together(comm, [&] {
    Matrix<double> products(std::min(own, kCheckRows), others);
    for (int64_t begin = 0; begin < own && others > 0; begin += kCheckRows) {
      const int64_t rows = std::min(kCheckRows, own - begin);
      multiply(false, true, rows, others, size, vectors.row(first + begin), size, vectors.row(first + own),
               size, products.data.data(), others);
      for (int64_t i = 0; i < rows * others; ++i)
        if (const double each = std::abs(products.data[static_cast<size_t>(i)]); !(each <= worst))
          worst = std::isnan(each) ? std::numeric_limits<double>::infinity() : each;
    }
  });
  return comm.max(worst) <= kOrthogonal;
}

}  // namespace

Eigenpairs scalapack_eigen(SymmetricTiles&& matrix, const ChooseRank& choose, Communicator& comm,
                           int threads) {
  const BlasThreads blas(threads);
  const BlockCyclic layout(matrix.size(), kBlock, comm);
  std::vector<double> a, tau;
  together(comm, [&] { a = layout.take(std::move(matrix), 1); });
  const Tridiagonal t = tridiagonalize(a, tau, layout, comm);
  Eigenpairs result;
  const std::vector<double> ascending = eigenvalues(t, comm);
  result.values.assign(ascending.rbegin(), ascending.rend());
  const int64_t count = choose(result.values);
  std::vector<Range> cuts = shares(ascending, count, comm.size());
  const auto find_vectors = [&] {
    const Range share = cuts[static_cast<size_t>(comm.rank())];
    std::vector<double> z;
    together(comm, [&] { z = vectors_of(t, share); });
    z = deal_out(z, cuts, count, layout, comm);
    bring_back(a, tau, z, count, layout, comm);
    result.vectors = layout.gather(z, count, count, comm);
    return orthogonal(result.vectors, share, layout.size, comm);
  };
  if (!find_vectors()) {
    for (Range& share : cuts) share = {layout.size, layout.size};
    cuts.front().begin = layout.size - count;
    result.vectors = {};
    find_vectors();
  }
  return result;
}

int64_t scalapack_eigen_bytes(int64_t size, int64_t rank, int ranks) {
  const auto share = [&](int64_t elements) { return (elements + ranks - 1) / ranks; };
  const double root = std::floor(std::sqrt(static_cast<double>(ranks)));
  const int64_t square =
      root > 1 ? static_cast<int64_t>(static_cast<double>(size * size) / (root * root)) : 0;
  const int64_t reduce = std::max(size * size / 2 + share(size * size), share(size * size) + square);
  const int64_t vectors = share(size * size) + 3 * share(rank * size) + 20 * size;  // own, sent, received
  const int64_t whole = share(size * size) + share(rank * size) + rank * size +
                        std::min(kMoveBytes / 8, 2 * share(rank * size));
  // The tiles are gone once they are dealt out.
  return 8 * (std::max({reduce, vectors, whole}) - size * size / 2);
}

}  // namespace lamina::svd

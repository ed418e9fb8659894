#include "distributed/svd/tsqr.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

extern "C" {
void dgelqf_(const int*, const int*, double*, const int*, double*, double*, const int*, int*);
void dorglq_(const int*, const int*, const int*, double*, const int*, const double*, double*, const int*,
             int*);
}

namespace lamina::svd {
namespace {

constexpr int64_t kLeastLeaf = 1024;  // rows
constexpr int kWorkBlock = 64;        // LAPACK's block size at the most

// In place: `rows` becomes Q [n × c] (its columns past c are left), the result is R [c × l]. Row-major rows
// are a column-major transpose, whose LQ factors are R and Q transposed.
Matrix<double> householder(Matrix<double>& rows) {
  const int64_t kept = std::min(rows.rows, rows.cols);
  Matrix<double> r(kept, rows.cols);
  if (kept == 0) return r;
  const int l = blas_int(rows.cols), n = blas_int(rows.rows), c = blas_int(kept);
  const int size = blas_int(kWorkBlock * rows.cols);
  std::vector<double> tau(static_cast<size_t>(kept)), work(static_cast<size_t>(size));
  int info = 0;
  dgelqf_(&l, &n, rows.data.data(), &l, tau.data(), work.data(), &size, &info);
  if (info != 0) throw std::runtime_error(fmt::format("svd: LAPACK's dgelqf failed (info {})", info));
  for (int64_t i = 0; i < kept; ++i) std::copy(rows.row(i) + i, rows.row(i) + rows.cols, r.row(i) + i);
  dorglq_(&c, &n, &c, rows.data.data(), &l, tau.data(), work.data(), &size, &info);
  if (info != 0) throw std::runtime_error(fmt::format("svd: LAPACK's dorglq failed (info {})", info));
  return r;
}

// Rows that lie in ranges `from` of the whole, one a rank, moved to lie in ranges `to`.
Matrix<double> move_rows(const Matrix<double>& rows, const std::vector<Range>& from,
                         const std::vector<Range>& to, Communicator& comm) {
  const size_t own = static_cast<size_t>(comm.rank());
  Messages send(from.size());
  Matrix<double> result;
  const int64_t row_bytes = rows.cols * static_cast<int64_t>(sizeof(double));
  together(comm, [&] {
    result = Matrix<double>(to[own].size(), rows.cols);
    for (size_t r = 0; r < to.size(); ++r) {
      const int64_t begin = std::max(from[own].begin, to[r].begin);
      const int64_t end = std::min(from[own].end, to[r].end);
      if (end <= begin) continue;
      const auto* bytes = reinterpret_cast<const std::byte*>(rows.row(begin - from[own].begin));
      send[r].assign(bytes, bytes + (end - begin) * row_bytes);
    }
  });
  const Messages received = comm.all_to_all(send);
  auto* out = reinterpret_cast<std::byte*>(result.data.data());
  for (const Message& part : received) {  // ranks hold rows in order
    if (!part.empty()) std::memcpy(out, part.data(), part.size());
    out += part.size();
  }
  return result;
}

// Where each rank's rows lie.
std::vector<Range> gather_ranges(int64_t rows, Communicator& comm) {
  std::vector<int64_t> counts(static_cast<size_t>(comm.size()));
  comm.all_gather(&rows, counts.data(), std::vector<int64_t>(counts.size(), sizeof(int64_t)));
  std::vector<Range> ranges;
  int64_t begin = 0;
  for (const int64_t count : counts) {
    ranges.push_back({begin, begin + count});
    begin += count;
  }
  return ranges;
}

}  // namespace

TallQr tsqr(const Matrix<double>& tall, Communicator& comm, int threads) {
  const int64_t l = tall.cols;
  const std::vector<Range> held = gather_ranges(tall.rows, comm);
  const int64_t total = held.back().end;
  const int64_t leaf_rows = std::max(kLeastLeaf, (4 * l + kRowBlock - 1) / kRowBlock * kRowBlock);
  const std::vector<Range> homes = partition(total, comm.size(), leaf_rows);
  const Range own = homes[static_cast<size_t>(comm.rank())];
  const int64_t leaf_count = (total + leaf_rows - 1) / leaf_rows;
  const int64_t kept = std::min(total, l);
  if (kept == 0) return {Matrix<double>(tall.rows, 0), Matrix<double>(0, l)};

  Matrix<double> rows = move_rows(tall, held, homes, comm);
  const int64_t own_leaves = (own.size() + leaf_rows - 1) / leaf_rows;
  std::vector<Matrix<double>> q(static_cast<size_t>(own_leaves)), r(q.size());
  together(comm, [&] {
    const BlasThreads single(1);
    std::vector<std::string> problems(q.size());
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t leaf = 0; leaf < own_leaves; ++leaf) {
      const size_t at = static_cast<size_t>(leaf);
      try {
        const int64_t begin = leaf * leaf_rows;
        q[at] = Matrix<double>(std::min(leaf_rows, rows.rows - begin), l);
        std::copy_n(rows.row(begin), q[at].data.size(), q[at].data.begin());
        r[at] = householder(q[at]);
      } catch (const std::exception& error) {
        problems[at] = error.what();
      }
    }
    for (const std::string& problem : problems) {
      if (!problem.empty()) throw std::runtime_error(problem);
    }
  });

  // Every leaf's R on top of each other, and their QR.
  std::vector<int64_t> bytes;
  int64_t stacked = 0;
  for (const Range& range : homes) {
    const int64_t begin = stacked;
    for (int64_t row = range.begin; row < range.end; row += leaf_rows)
      stacked += std::min({l, leaf_rows, range.end - row});
    bytes.push_back((stacked - begin) * l * static_cast<int64_t>(sizeof(double)));
  }
  std::vector<double> own_stack;
  Matrix<double> stack;
  TallQr result;
  together(comm, [&] {
    for (const Matrix<double>& each : r)
      own_stack.insert(own_stack.end(), each.data.begin(), each.data.end());
    stack = Matrix<double>(stacked, l);
    result.r = Matrix<double>(kept, l);
  });
  comm.all_gather(own_stack.data(), stack.data.data(), bytes);
  together(comm, [&] {
    if (comm.rank() != 0) return;
    const BlasThreads single(1);
    if (leaf_count > 1) {
      result.r = householder(stack);
    } else {
      result.r = stack;
    }
  });
  comm.broadcast(result.r.data.data(), kept * l * static_cast<int64_t>(sizeof(double)), 0);
  if (leaf_count > 1)
    comm.broadcast(stack.data.data(), stacked * l * static_cast<int64_t>(sizeof(double)), 0);

  // Q of a leaf times its rows of the stack's.
  Matrix<double> product;
  together(comm, [&] { product = Matrix<double>(rows.rows, kept); });
  const BlasThreads single(1);
  std::vector<int64_t> top(q.size());
  int64_t next = 0;
  for (int rank = 0; rank < comm.rank(); ++rank)
    next += bytes[static_cast<size_t>(rank)] / (l * static_cast<int64_t>(sizeof(double)));
  for (size_t leaf = 0; leaf < q.size(); ++leaf) {
    top[leaf] = next;
    next += r[leaf].rows;
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t leaf = 0; leaf < own_leaves; ++leaf) {
    const size_t at = static_cast<size_t>(leaf);
    double* to = product.row(leaf * leaf_rows);
    if (leaf_count > 1) {
      multiply(false, false, q[at].rows, kept, r[at].rows, q[at].data.data(), l, stack.row(top[at]), l, to,
               kept);
    } else {
      for (int64_t i = 0; i < q[at].rows; ++i) std::copy_n(q[at].row(i), kept, to + i * kept);
    }
  }
  result.q = move_rows(product, homes, held, comm);
  return result;
}

}  // namespace lamina::svd

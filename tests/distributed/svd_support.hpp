// What the tests of factorisations share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "distributed/partition.hpp"
#include "distributed/svd.hpp"
#include "tests/distributed/support.hpp"

extern "C" void dgesdd_(const char*, const int*, const int*, double*, const int*, double*, double*,
                        const int*, double*, const int*, double*, const int*, int*, int*);

namespace lamina::test {

// Singular values by LAPACK, largest first.
inline std::vector<double> exact_singular_values(const Matrix<float>& a) {
  std::vector<double> copy(a.data.begin(), a.data.end());
  const int m = static_cast<int>(a.cols), n = static_cast<int>(a.rows), least = std::min(m, n);
  std::vector<double> values(static_cast<size_t>(least));
  const int size = 64 * (m + n) + 16 * least * least;
  std::vector<double> work(static_cast<size_t>(size));
  std::vector<int> integers(static_cast<size_t>(8 * least));
  int info = 0;
  const int one = 1;
  double none = 0;
  dgesdd_("N", &m, &n, copy.data(), &m, values.data(), &none, &one, &none, &one, work.data(), &size,
          integers.data(), &info);
  EXPECT_EQ(info, 0);
  return values;
}

// The least relative error of any approximation of rank r.
inline double optimal_error(const std::vector<double>& sigma, int64_t r) {
  double rest = 0, all = 0;
  for (size_t i = 0; i < sigma.size(); ++i) {
    all += sigma[i] * sigma[i];
    if (static_cast<int64_t>(i) >= r) rest += sigma[i] * sigma[i];
  }
  return std::sqrt(rest / all);
}

// Σ_r (r+1)^−decay · noise ⊗ noise: a spectrum that falls about as that power.
inline Matrix<float> decaying(int64_t n, int64_t k, double decay, int64_t terms) {
  const Matrix<float> left = random_matrix(n, terms, 11), right = random_matrix(terms, k, 12);
  Matrix<float> a(n, k);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t r = 0; r < terms; ++r) {
      const float scaled = left(i, r) * static_cast<float>(std::pow(r + 1.0, -decay));
      for (int64_t j = 0; j < k; ++j) a(i, j) += scaled * right(r, j);
    }
  }
  return a;
}

// Random orthonormal columns [rows × count], by Gram and Schmidt, twice.
inline Matrix<double> orthonormal(int64_t rows, int64_t count, uint64_t seed) {
  Matrix<double> columns(count, rows);  // a column a row, while they are made
  for (int64_t i = 0; i < count; ++i) {
    double* own = columns.row(i);
    for (int64_t k = 0; k < rows; ++k) own[k] = number(seed, k, i);
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < rows; ++k) dot += own[k] * columns(j, k);
        for (int64_t k = 0; k < rows; ++k) own[k] -= dot * columns(j, k);
      }
      double norm = 0;
      for (int64_t k = 0; k < rows; ++k) norm += own[k] * own[k];
      for (int64_t k = 0; k < rows; ++k) own[k] /= std::sqrt(norm);
    }
  }
  Matrix<double> result(rows, count);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < count; ++j) result(i, j) = columns(j, i);
  }
  return result;
}

// A matrix of these singular values, but for its rounding to float32.
inline Matrix<float> with_spectrum(int64_t n, int64_t k, const std::vector<double>& sigma) {
  const auto count = static_cast<int64_t>(sigma.size());
  const Matrix<double> u = orthonormal(n, count, 21), v = orthonormal(k, count, 22);
  Matrix<float> a(n, k);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < count; ++r) sum += u(i, r) * sigma[static_cast<size_t>(r)] * v(j, r);
      a(i, j) = static_cast<float>(sum);
    }
  }
  return a;
}

// This rank's part of a whole matrix, by rows or columns.
inline SpreadMatrix spread(const Matrix<float>& whole, Layout layout, Communicator& comm) {
  SpreadMatrix a{{whole.rows, whole.cols}, {.layout = layout}, {}};
  const size_t rank = static_cast<size_t>(comm.rank());
  const Range rows =
      layout == Layout::rows ? partition(whole.rows, comm.size(), kRowBlock)[rank] : Range{0, whole.rows};
  const Range cols =
      layout == Layout::columns ? partition(whole.cols, comm.size(), kRowBlock)[rank] : Range{0, whole.cols};
  a.local = Matrix<float>(rows.size(), cols.size());
  for (int64_t i = 0; i < rows.size(); ++i)
    std::copy_n(whole.row(rows.begin + i) + cols.begin, cols.size(), a.local.row(i));
  return a;
}

// All ranks' rows of a factor.
inline Matrix<float> whole_factor(const Matrix<float>& own, int64_t rows, Communicator& comm) {
  std::vector<int64_t> bytes;
  for (const Range& range : partition(rows, comm.size(), kRowBlock))
    bytes.push_back(4 * range.size() * own.cols);
  Matrix<float> all(rows, own.cols);
  comm.all_gather(own.data.data(), all.data.data(), bytes);
  return all;
}

struct WholeFactors {
  Matrix<float> u, v;
};
inline WholeFactors whole(const SvdResult& result, Shape shape, Communicator& comm) {
  return {whole_factor(result.u, shape.out_features, comm), whole_factor(result.v, shape.in_features, comm)};
}

// Largest |QᵀQ − I|; of a singular value of 0 the column must be zeros.
inline double orthogonality(const Matrix<float>& q, const std::vector<double>& sigma) {
  double worst = 0;
  for (int64_t i = 0; i < q.cols; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double dot = 0;
      for (int64_t k = 0; k < q.rows; ++k) dot += static_cast<double>(q(k, i)) * q(k, j);
      const double expected = i == j && sigma[static_cast<size_t>(i)] > 0 ? 1 : 0;
      worst = std::max(worst, std::abs(dot - expected));
    }
  }
  return worst;
}

// ‖A − U·diag(σ)·Vᵀ‖/‖A‖, one element after the other.
inline double error_of(const Matrix<float>& a, const WholeFactors& factors,
                       const std::vector<double>& sigma) {
  double rest = 0, all = 0;
  std::vector<double> row(static_cast<size_t>(a.cols));
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < a.cols; ++j) {
      double sum = a(i, j);
      for (size_t r = 0; r < sigma.size(); ++r)
        sum -= factors.u(i, static_cast<int64_t>(r)) * sigma[r] * factors.v(j, static_cast<int64_t>(r));
      rest += sum * sum;
      all += static_cast<double>(a(i, j)) * a(i, j);
    }
  }
  return all > 0 ? std::sqrt(rest / all) : std::sqrt(rest);
}

// Between the ranks' GPUs: NCCL's where each rank has one of its own, else MPI's, which lets them share one.
// Null on one rank; `why` says what is amiss where no GPU can be had.
inline Transport* gpu_transport(std::string& why) {
  static std::string reason = gpu_svd_absent();
  static const std::unique_ptr<Transport>& made = *new auto([] {
    std::unique_ptr<Transport> transport;
    reason = world().agree(reason).message;
    for (const char* name : {"nccl", "mpi"}) {
      if (transport != nullptr || world().size() == 1 || !reason.empty()) break;
      try {
        transport = make_transport(name, "cuda", world());
      } catch (const AgreedError& error) {
        if (std::string(name) == "mpi") reason = error.what();
      }
    }
    return transport;
  }());
  why = reason;
  return made.get();
}

// What the call throws, which must be an AgreedError of the same words on every rank; empty when nothing.
template <class Call>
std::string agreed_failure(Communicator& comm, Call&& call) {
  std::string message;
  try {
    call();
  } catch (const AgreedError& error) {
    message = error.what();
  }
  EXPECT_EQ(message, comm.broadcast_text(message));
  return message;
}

}  // namespace lamina::test

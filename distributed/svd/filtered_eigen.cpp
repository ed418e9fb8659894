#include "distributed/svd/filtered_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/sketch.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kLeastSize = 512;  // LAPACK has a smaller one in a moment
constexpr int64_t kLeastShare = 8;   // size over rank
constexpr int64_t kLeastExtra = 32;  // vectors beside those that are wanted
constexpr int kRounds = 12;
constexpr int kRoundsToCome = 4;  // where more are to be expected, LAPACK is sooner there
constexpr int kFirstRounds = 2;   // which tell the far values from the others
constexpr int kHighestDegree = 6;
// A value this far above the others' is found by then to some 10⁻³, and goes its own way.
constexpr double kFar = 6;
// Products in float32 leave noise of 2⁻²⁴ of the largest value's part, spread over all directions: a filter
// must not lift that to what the smallest wanted value's comes to.
constexpr double kWidest = 1e6;
constexpr double kSteepest = 1e5;   // first value over last, for float32
constexpr double kLeftOver = 1e-4;  // of the rest of the trace

constexpr double kNoise = 1e-6;  // of a sum: float32 products tell no less apart

enum Outcome : int64_t { kGoOn, kDone, kGiveUp };

int64_t columns_for(int64_t rank) {
  return rank + std::max(rank / 2, kLeastExtra);
}

// Chebyshev's polynomial of the first kind, for x ≥ 1.
double chebyshev(int degree, double x) {
  return std::cosh(degree * std::acosh(std::max(x, 1.0)));
}

class Filtered {
 public:
  Filtered(Matrix<float>&& rows, Communicator& comm, int threads)
      : whole_(std::move(rows)),
        size_(whole_.cols),
        comm_(comm),
        threads_(threads),
        shares_(partition(size_, comm.size(), kRowBlock)),
        own_(shares_[static_cast<size_t>(comm.rank())]) {
    std::vector<double> diagonal;
    for (int64_t i = own_.begin; i < own_.end; ++i) diagonal.push_back(whole_(i - own_.begin, i));
    trace_ = ordered_sum(diagonal, comm);
  }

  Eigenpairs run(int64_t rank, uint64_t seed) {
    Matrix<double> q = start(columns_for(rank), seed);
    int64_t wanted = rank;  // of the matrix as it is now
    double before = 0, rest = trace_;
    int degree = 1;
    for (int round = 0; round < kRounds; ++round) {
      const bool take_out = round == kFirstRounds;
      orthonormalize(q, comm_, threads_, take_out ? 2 : 1);
      Matrix<double> product = multiply_fast(q);
      Eigenpairs pairs = ritz(q, product, take_out ? q.cols : 0);
      std::vector<double> values = std::move(pairs.values);
      const double least = values.back();
      if (!(values.front() < kSteepest * least)) return {};
      const double captured = std::accumulate(values.begin(), values.begin() + wanted, 0.0);
      // Where a filter sees the last wanted value; half as far, since Ritz values lie too far apart until the
      // end.
      const double last = (1 + place(values[static_cast<size_t>(wanted - 1)], least)) / 2;
      const auto shrinks = [&](int by) { return std::min(std::pow(chebyshev(by, last), -2), 1 - 1e-9); };
      // What the last filter has left, if what it found was the slowest to come.
      const double gain = captured - before > kNoise * captured ? captured - before : 0;
      const double left = gain * shrinks(degree) / (1 - shrinks(degree));
      // By rank 0 for all: the last bits of cosh may differ between machines.
      struct {
        int64_t taken = 0, degree = 1, outcome = kGoOn;
      } plan;
      if (take_out)
        plan.taken = std::find_if(values.begin(), values.begin() + wanted - 1,
                                  [&](double value) { return value <= kFar * least; }) -
                     values.begin();
      const double taken = std::accumulate(values.begin(), values.begin() + plan.taken, 0.0);
      const double enough = kLeftOver * (rest - captured);
      const int highest = highest_degree({values.begin() + plan.taken, values.end()}, wanted - plan.taken);
      while (plan.degree < highest && left * shrinks(static_cast<int>(plan.degree)) > enough) ++plan.degree;
      if (round >= kFirstRounds) {
        if (left * shrinks(static_cast<int>(plan.degree)) <= enough) plan.outcome = kDone;
        if (left * std::pow(shrinks(highest), kRoundsToCome) > enough) plan.outcome = kGiveUp;
      }
      comm_.broadcast(&plan, sizeof plan, 0);
      if (plan.outcome == kGiveUp) return {};
      before = captured;
      if (take_out) {
        deflate(q, product, values, pairs.vectors, plan.taken);
        wanted -= plan.taken;
        values.erase(values.begin(), values.begin() + plan.taken);
        before -= taken;
        rest -= taken;
      }
      degree = static_cast<int>(plan.degree);
      filter(q, std::move(product), least, degree);
      if (plan.outcome == kDone) return finish(std::move(q), rank);
    }
    return {};
  }

 private:
  // Every rank's rows of T, in T's own precision or a lesser one.
  template <class To>
  Matrix<To> gather(const Matrix<double>& tall) {
    Matrix<To> all;
    std::vector<int64_t> bytes;
    together(comm_, [&] {
      all = Matrix<To>(size_, tall.cols);
      std::transform(tall.data.begin(), tall.data.end(), all.row(own_.begin),
                     [](double x) { return static_cast<To>(x); });
      for (const Range& share : shares_)
        bytes.push_back(share.size() * tall.cols * static_cast<int64_t>(sizeof(To)));
    });
    if (comm_.size() > 1) comm_.all_gather(all.row(own_.begin), all.data.data(), bytes);
    return all;
  }

  Matrix<double> start(int64_t columns, uint64_t seed) {
    Matrix<double> omega;
    together(comm_, [&] {
      omega = Matrix<double>(own_.size(), columns);
      for (int64_t i = 0; i < omega.rows; ++i) {
        for (int64_t j = 0; j < columns; ++j)
          omega(i, j) = sketch_number(seed, static_cast<uint64_t>(own_.begin + i), static_cast<uint64_t>(j));
      }
    });
    return multiply_fast(omega);
  }

  // Own rows of the matrix times T, in float32.
  Matrix<double> multiply_fast(const Matrix<double>& tall) {
    const Matrix<float>& rows_now = rest_.rows > 0 ? rest_ : whole_;
    const Matrix<float> all = gather<float>(tall);
    const int64_t cols = tall.cols;
    Matrix<double> product;
    std::vector<Matrix<float>> scratch;
    together(comm_, [&] {
      product = Matrix<double>(own_.size(), cols);
      scratch.assign(static_cast<size_t>(threads_), Matrix<float>(kRowBlock, cols));
    });
    for_each_block(own_.size(), threads_, [&](int64_t begin, int64_t rows, int thread) {
      float* out = scratch[static_cast<size_t>(thread)].data.data();
      multiply(false, false, rows, cols, size_, rows_now.row(begin), size_, all.data.data(), cols, out, cols);
      std::copy_n(out, rows * cols, product.row(begin));
    });
    return product;
  }

  // Eigenpairs of QᵀGQ, the first `rank` vectors.
  Eigenpairs ritz(const Matrix<double>& q, const Matrix<double>& product, int64_t rank) {
    return sketch_eigen(
        symmetric_products(q, product, comm_, threads_), [&](const std::vector<double>&) { return rank; },
        comm_);
  }

  // Where a filter on [0, end] sees a value: within ±1 in there.
  static double place(double value, double end) { return 2 * value / end - 1; }

  // The highest degree that lifts the largest value's part not too far above the last wanted one's.
  static int highest_degree(const std::vector<double>& values, int64_t wanted) {
    const double first = place(values.front(), values.back());
    const double last = place(values[static_cast<size_t>(wanted - 1)], values.back());
    int degree = 1;
    while (degree < kHighestDegree && chebyshev(degree + 1, first) <= kWidest * chebyshev(degree + 1, last))
      ++degree;
    return degree;
  }

  // Takes the first `count` Ritz pairs out of the matrix, for finish() to add again, and turns Q and its
  // product to the others.
  void deflate(Matrix<double>& q, Matrix<double>& product, const std::vector<double>& values,
               const Matrix<double>& vectors, int64_t count) {
    const int64_t columns = q.cols;
    Matrix<double> turn;
    together(comm_, [&] {
      turn = transposed(vectors);
      const auto split = [&](const Matrix<double>& both, Matrix<double>& first, Matrix<double>& others) {
        first = Matrix<double>(both.rows, count);
        others = Matrix<double>(both.rows, columns - count);
        for (int64_t i = 0; i < both.rows; ++i) {
          std::copy_n(both.row(i), count, first.row(i));
          std::copy_n(both.row(i) + count, columns - count, others.row(i));
        }
      };
      split(times_small(q, turn, threads_), taken_, q);
      Matrix<double> none;
      split(times_small(product, turn, threads_), none, product);
    });
    if (count == 0) return;
    const Matrix<float> all = gather<float>(taken_);
    together(comm_, [&] {
      rest_ = whole_;
      Matrix<float> minus(own_.size(), count);
      for (int64_t i = 0; i < minus.rows; ++i) {
        for (int64_t j = 0; j < count; ++j)
          minus(i, j) = static_cast<float>(-values[static_cast<size_t>(j)] * taken_(i, j));
      }
      for_each_block(own_.size(), threads_, [&](int64_t begin, int64_t rows, int) {
        multiply(false, true, rows, size_, count, minus.row(begin), count, all.data.data(), count,
                 rest_.row(begin), size_, true);
      });
    });
  }

  // Q becomes p(G)·Q, p Chebyshev's polynomial that stays within ±1 on [0, end]. `product` is G·Q.
  void filter(Matrix<double>& q, Matrix<double> product, double end, int degree) {
    const double half = end / 2;
    Matrix<double> older = std::move(q);
    for (size_t i = 0; i < product.data.size(); ++i) product.data[i] = product.data[i] / half - older.data[i];
    q = std::move(product);
    for (int done = 1; done < degree; ++done) {
      const Matrix<double> next = multiply_fast(q);
      for (size_t i = 0; i < next.data.size(); ++i)
        older.data[i] = 2 * (next.data[i] / half - q.data[i]) - older.data[i];
      std::swap(q, older);
    }
  }

  Eigenpairs finish(Matrix<double> q, int64_t rank) {
    together(comm_, [&] {
      Matrix<double> both(q.rows, taken_.cols + q.cols);
      for (int64_t i = 0; i < q.rows; ++i) {
        std::copy_n(taken_.row(i), taken_.cols, both.row(i));
        std::copy_n(q.row(i), q.cols, both.row(i) + taken_.cols);
      }
      q = std::move(both);
    });
    orthonormalize(q, comm_, threads_);
    rest_ = {};
    Eigenpairs small = ritz(q, multiply_fast(q), rank);
    small.values.resize(static_cast<size_t>(rank));
    together(comm_, [&] { q = times_small(q, transposed(small.vectors), threads_); });
    const Matrix<double> all = gather<double>(q);
    Eigenpairs pairs;
    pairs.values = std::move(small.values);
    together(comm_, [&] { pairs.vectors = transposed(all); });
    return pairs;
  }

  Matrix<float> whole_;  // own rows
  int64_t size_;
  Communicator& comm_;
  int threads_;
  std::vector<Range> shares_;
  Range own_;
  Matrix<float> rest_;    // and without what was taken out, once something was
  Matrix<double> taken_;  // own rows of the vectors taken out
  double trace_ = 0;
};

}  // namespace

bool is_few(int64_t rank, int64_t size) {
  return rank > 0 && size >= kLeastSize && kLeastShare * rank <= size;
}

Eigenpairs filtered_eigen(Matrix<float>&& rows, int64_t rank, uint64_t seed, Communicator& comm,
                          int threads) {
  return Filtered(std::move(rows), comm, threads).run(rank, seed);
}

int64_t filtered_eigen_bytes(int64_t size, int64_t rank, int ranks, int threads) {
  const int64_t l = columns_for(rank), own = partition(size, ranks, kRowBlock)[0].size();
  const int64_t tall = 8 * own * l;
  // Pairs taken out; a filter's three vectors beside all of one; Ritz pairs of a product.
  const int64_t iterating =
      8 * own * size + std::max({4 * tall, 3 * tall + 4 * size * l, 2 * tall + 40 * l * l});
  const int64_t finishing = 4 * own * size + 4 * kRowBlock * l * threads + 3 * tall + 8 * size * l;
  return std::max(iterating, finishing);
}

}  // namespace lamina::svd

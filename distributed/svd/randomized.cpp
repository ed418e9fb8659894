// The randomized factorisation. docs/ and svd.hpp name the sources; the parts that all methods share are in
// tall.hpp.
#include <fmt/format.h>

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kFirstSketch = 64;    // columns of the first try at a rank for an error
constexpr int64_t kSmall = 256;         // a side up to this is decomposed whole
constexpr int64_t kInputPanel = 512;    // columns of A that one task multiplies
constexpr double kZero = 1e-8;          // singular values below this share of the largest are rounding
constexpr int64_t kMaxSketch = 32'000;  // 2·l² workspace numbers must fit LAPACK's 32-bit count

// About normal, from a counter: the sum of four 16-bit uniforms, so that every machine draws the same
// numbers.
float sketch_number(uint64_t seed, uint64_t row, uint64_t col) {
  // splitmix64's finaliser over a distinct counter (Steele, Lea, Flood 2014)
  uint64_t z =
      seed * 0x9E3779B97F4A7C15ull + (row << 24 ^ col) * 0xD1B54A32D192ED03ull + 0x8CB92BA72F3D8DD7ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  const int64_t sum =
      static_cast<int64_t>((z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)) - 2 * 65535;
  return static_cast<float>(sum) * (1.0f / 37837.0f);  // the sum's standard deviation
}

Matrix<float> to_float(const Matrix<double>& from) {
  Matrix<float> to(from.rows, from.cols);
  std::transform(from.data.begin(), from.data.end(), to.data.begin(),
                 [](double x) { return static_cast<float>(x); });
  return to;
}

// One matrix by rows, its ranks, and the products that the method is made of.
class Spread {
 public:
  Spread(const Input& input, const Matrix<float>& rows, TimedCommunicator& comm, const SvdOptions& options)
      : a_(rows),
        shape_(input.shape),
        comm_(comm),
        options_(options),
        threads_(options.threads),
        inputs_(partition(input.shape.in_features, comm.size(), kRowBlock)),
        own_inputs_(inputs_[static_cast<size_t>(comm.rank())]),
        max_abs_(input.max_abs) {}

  // A's projection on the span of Q's columns, best first.
  struct Basis {
    std::vector<double> sigma;  // singular values of the projection, largest first
    Matrix<double> left;        // [slab rows × l], unit columns: A ≈ left · rightᵀ
    Matrix<double> right;       // [own inputs × l], this rank's share of the K rows; columns of norm σ
  };

  // Halko, Martinsson, Tropp 2011: the range finder with orthonormalised power iterations (algorithm 4.4),
  // then the factorisation of the projection (5.1), by its Gram matrix since float32 data has no more digits
  // than that keeps.
  Basis randomized(int64_t l, uint64_t seed) {
    Matrix<float> z(shape_.in_features, l);
    for (int64_t i = 0; i < z.rows; ++i) {
      for (int64_t j = 0; j < l; ++j) {
        z(i, j) = sketch_number(seed, static_cast<uint64_t>(i), static_cast<uint64_t>(j));
      }
    }
    Matrix<double> q = times(z);
    for (int iteration = 0; iteration < options_.power_iterations; ++iteration) {
      orthonormalize(q, comm_, threads_, 1);
      Matrix<double> t = transposed_times(q);
      orthonormalize(t, comm_, threads_, 1);
      q = times(gather_tall(t, inputs_, comm_));
    }
    orthonormalize(q, comm_, threads_);
    const Matrix<double> t = transposed_times(q);
    const Eigen eigen = symmetric_eigen(gram(t, comm_, threads_), comm_);
    return {roots(eigen.values), times_small(q, eigen.vectors, threads_),
            times_small(t, eigen.vectors, threads_)};
  }

 private:
  static std::vector<double> roots(std::vector<double> values) {
    for (double& value : values) value = std::sqrt(std::max(value, 0.0));
    return values;
  }

  // A·Z, this rank's rows.
  Matrix<double> times(const Matrix<float>& z) {
    Matrix<double> result(a_.rows, z.cols);
    std::vector<Matrix<float>> scratch(static_cast<size_t>(threads_), Matrix<float>(kRowBlock, z.cols));
    for_each_block(a_.rows, threads_, [&](int64_t begin, int64_t rows, int thread) {
      float* product = scratch[static_cast<size_t>(thread)].data.data();
      std::fill_n(product, rows * z.cols, 0.0f);
      multiply(false, false, rows, z.cols, z.rows, a_.row(begin), a_.cols, z.data.data(), z.cols, product,
               z.cols);
      std::copy_n(product, rows * z.cols, result.row(begin));
    });
    return result;
  }

  // Aᵀ·Q, this rank's share of the K rows.
  Matrix<double> transposed_times(const Matrix<double>& wide_q) {
    const Matrix<float> q = to_float(wide_q);
    const int64_t l = q.cols;
    const double shift =
        exact_shift(1.01 * static_cast<double>(shape_.out_features) * max_abs_ * max_abs(q, comm_));
    Matrix<double> sum(shape_.in_features, l);
    std::vector<Matrix<float>> scratch(static_cast<size_t>(threads_), Matrix<float>(kInputPanel, l));
    const BlasThreads single(1);
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (int64_t first = 0; first < shape_.in_features; first += kInputPanel) {
      const int64_t width = std::min(kInputPanel, shape_.in_features - first);
      float* product = scratch[static_cast<size_t>(omp_get_thread_num())].data.data();
      double* to = sum.row(first);
      for (int64_t begin = 0; begin < a_.rows; begin += kRowBlock) {
        const int64_t depth = std::min(kRowBlock, a_.rows - begin);
        multiply(true, false, width, l, depth, a_.row(begin) + first, a_.cols, q.row(begin), l, product, l);
        for (int64_t i = 0; i < width * l; ++i) to[i] += on_grid(product[i], shift);
      }
    }
    comm_.all_reduce(sum.data.data(), sum.data.data(), sum.rows * l, DType::f64, ReduceOp::sum);
    Matrix<double> own(own_inputs_.size(), l);
    std::copy_n(sum.row(own_inputs_.begin), own.data.size(), own.data.begin());
    return own;
  }

  const Matrix<float>& a_;
  Shape shape_;
  TimedCommunicator& comm_;
  const SvdOptions& options_;
  int threads_;
  std::vector<Range> inputs_;  // K cut over ranks
  Range own_inputs_;
  double max_abs_;
};

// The first r of the basis, zeros where there are no more than rounding.
SvdResult factors(const Spread::Basis& basis, int64_t r) {
  SvdResult result;
  result.singular_values.assign(static_cast<size_t>(r), 0.0);
  result.u = Matrix<float>(basis.left.rows, r);
  result.v = Matrix<float>(basis.right.rows, r);
  const double zero = basis.sigma.empty() ? 0 : kZero * basis.sigma.front();
  for (int64_t j = 0; j < std::min(r, static_cast<int64_t>(basis.sigma.size())); ++j) {
    const double sigma = basis.sigma[static_cast<size_t>(j)];
    if (sigma <= zero) break;
    result.singular_values[static_cast<size_t>(j)] = sigma;
    for (int64_t i = 0; i < result.u.rows; ++i) result.u(i, j) = static_cast<float>(basis.left(i, j));
    for (int64_t i = 0; i < result.v.rows; ++i)
      result.v(i, j) = static_cast<float>(basis.right(i, j) / sigma);
  }
  return result;
}

// A sketch this near the whole costs more than the whole, and says less.
bool take_whole(int64_t sketch, int64_t small_side) {
  return small_side <= kSmall || 4 * sketch >= 3 * small_side;
}

SvdResult run(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  const int64_t small = input.small_side();
  const auto whole = [&] { return gram_method().run(input, options, comm); };
  if (input.rank > 0 && take_whole(input.rank + options.oversampling, small)) return whole();
  const InLayout by_rows(input, Layout::rows, comm, options.threads);
  Spread a(input, by_rows.local(), comm, options);
  // Doubles the sketch until it holds the error with oversampling to spare, then takes the least rank.
  for (int64_t sketch = input.rank > 0 ? input.rank + options.oversampling : kFirstSketch;; sketch *= 2) {
    if (take_whole(sketch, small)) return whole();
    if (sketch > kMaxSketch)
      throw AgreedError(
          fmt::format("svd: expected a rank and oversampling of at most {}, found {}", kMaxSketch, sketch));
    const Spread::Basis basis = a.randomized(sketch, options.seed);
    std::vector<double> squares;
    for (const double sigma : basis.sigma) squares.push_back(sigma * sigma);
    // The projection is made in float32.
    const double rounding = kFactorRounding + std::sqrt(static_cast<double>(small)) * 0x1p-24;
    const int64_t rank = choose_rank(
        squares, input, [&](double rho, int64_t) { return std::sqrt(std::max(0.0, rho)) + rounding; });
    if (input.rank == 0 && rank > sketch - options.oversampling) continue;
    SvdResult result = factors(basis, rank);
    double rest = input.norm_squared;
    for (const double sigma : result.singular_values) rest -= sigma * sigma;
    result.error_bound = std::sqrt(std::max(0.0, rest) / input.norm_squared) + rounding;
    result.optimal_error = std::nan("");
    return result;
  }
}

int64_t memory_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions& options) {
  const int64_t l = std::min(rank + options.oversampling, std::min(shape.out_features, shape.in_features));
  return 8 * 3 * l * (shape.in_features + shape.out_features / ranks + l);
}

}  // namespace

Method randomized_method() {
  return {{"randomized", "randomized range finder with power iterations, its projection by a Gram matrix", "",
           false, memory_bytes},
          run};
}

}  // namespace lamina::svd

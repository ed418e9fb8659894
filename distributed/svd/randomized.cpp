// The randomized factorisation. docs/ and svd.hpp name the sources; the parts that all methods share are in
// tall.hpp.
#include <fmt/format.h>

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/exact_sum.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina {
namespace {

constexpr int64_t kOversampling = 16;
constexpr int kPowerIterations = 2;
constexpr int64_t kFirstSketch = 64;    // columns of the first try at a rank for an error
constexpr int64_t kSmall = 256;         // a side up to this is decomposed whole
constexpr int64_t kInputPanel = 512;    // columns of A that one task multiplies
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

// One matrix, its ranks, and the products that the methods are made of.
class Spread {
 public:
  Spread(const RowSlab& slab, Communicator& comm, int threads)
      : a_(slab.rows),
        row_begin_(slab.row_begin),
        shape_(slab.shape),
        comm_(comm),
        threads_(threads),
        inputs_(partition(slab.shape.in_features, comm.size(), kRowBlock)),
        own_inputs_(inputs_[static_cast<size_t>(comm.rank())]),
        max_abs_(max_abs(slab.rows, comm)),
        norm_squared_(max_abs_ > 0 && std::isfinite(max_abs_) ? sum_squares(slab.rows, comm) : 0) {}

  // U·V of some rank, before the rank is chosen: A's projection on the span of U's columns, best first.
  struct Basis {
    std::vector<double> sigma;  // singular values of the projection, largest first
    Matrix<double>
        left;  // [slab rows × l]: A ≈ left · rightᵀ, where column i of one has norm 1, of the other σ_i
    Matrix<double> right;      // [own inputs × l], this rank's share of the K rows
    bool left_is_unit = true;  // whether left or right has the unit columns
  };

  double max_magnitude() const { return max_abs_; }
  double norm_squared() const { return norm_squared_; }
  int64_t small_side() const { return std::min(shape_.out_features, shape_.in_features); }

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
    for (int iteration = 0; iteration < kPowerIterations; ++iteration) {
      orthonormalize(q, comm_, threads_, 1);
      Matrix<double> t = transposed_times(q);
      orthonormalize(t, comm_, threads_, 1);
      q = times(gather_tall(t, inputs_, comm_));
    }
    orthonormalize(q, comm_, threads_);
    const Matrix<double> t = transposed_times(q);
    const Eigen eigen = symmetric_eigen(gram(t, comm_, threads_), comm_);
    return {roots(eigen.values), times_small(q, eigen.vectors, threads_),
            times_small(t, eigen.vectors, threads_), true};
  }

  // All of A, through the eigenvectors of the smaller Gram matrix in float64.
  Basis whole() {
    if (shape_.in_features <= shape_.out_features) {
      const Matrix<double> a = widen(a_);
      const Eigen eigen = symmetric_eigen(gram(a, comm_, threads_), comm_);
      Matrix<double> right(own_inputs_.size(), shape_.in_features);
      std::copy_n(eigen.vectors.row(own_inputs_.begin), right.data.size(), right.data.begin());
      return {roots(eigen.values), times_small(a, eigen.vectors, threads_), std::move(right), false};
    }
    const Matrix<double> t = transpose_spread();
    const Eigen eigen = symmetric_eigen(gram(t, comm_, threads_), comm_);
    Matrix<double> left(a_.rows, shape_.out_features);
    std::copy_n(eigen.vectors.row(row_begin_), left.data.size(), left.data.begin());
    return {roots(eigen.values), std::move(left), times_small(t, eigen.vectors, threads_), true};
  }

  // The first r of the basis, √σ in each factor, zeros where there are no more than rounding.
  Factors factors(const Basis& basis, int64_t r) {
    Factors result;
    result.singular_values.assign(static_cast<size_t>(r), 0.0);
    result.u = Matrix<float>(a_.rows, r);
    Matrix<double> v(own_inputs_.size(), r);
    for (int64_t j = 0; j < std::min(r, static_cast<int64_t>(basis.sigma.size())); ++j) {
      const double sigma = basis.sigma[static_cast<size_t>(j)];
      if (sigma <= 0) break;
      result.singular_values[static_cast<size_t>(j)] = sigma;
      const double grow = std::sqrt(sigma), shrink = 1 / grow;
      for (int64_t i = 0; i < a_.rows; ++i) {
        result.u(i, j) = static_cast<float>(basis.left(i, j) * (basis.left_is_unit ? grow : shrink));
      }
      for (int64_t i = 0; i < v.rows; ++i) v(i, j) = basis.right(i, j) * (basis.left_is_unit ? shrink : grow);
    }
    const Matrix<float> tall = gather_tall(v, inputs_, comm_);
    result.v = Matrix<float>(r, shape_.in_features);
    for (int64_t k = 0; k < tall.rows; ++k) {
      for (int64_t j = 0; j < r; ++j) result.v(j, k) = tall(k, j);
    }
    result.error = norm_squared_ > 0 ? std::sqrt(residual_squared(result) / norm_squared_) : 0;
    return result;
  }

 private:
  static std::vector<double> roots(std::vector<double> values) {
    for (double& value : values) value = std::sqrt(std::max(value, 0.0));
    return values;
  }

  Matrix<double> widen(const Matrix<float>& from) const {
    Matrix<double> to(from.rows, from.cols);
    std::copy(from.data.begin(), from.data.end(), to.data.begin());
    return to;
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

  // Aᵀ spread by its own rows: [own inputs × N].
  Matrix<double> transpose_spread() {
    const std::vector<Range> outputs = partition(shape_.out_features, comm_.size(), kRowBlock);
    std::vector<std::vector<std::byte>> send;
    for (const Range& cols : inputs_) {
      std::vector<float> part;
      part.reserve(static_cast<size_t>(a_.rows * cols.size()));
      for (int64_t i = 0; i < a_.rows; ++i)
        part.insert(part.end(), a_.row(i) + cols.begin, a_.row(i) + cols.end);
      const auto* bytes = reinterpret_cast<const std::byte*>(part.data());
      send.emplace_back(bytes, bytes + part.size() * sizeof(float));
    }
    const std::vector<std::vector<std::byte>> received = comm_.all_to_all(send);
    Matrix<double> result(own_inputs_.size(), shape_.out_features);
    for (size_t r = 0; r < received.size(); ++r) {
      const auto* from = reinterpret_cast<const float*>(received[r].data());
      for (int64_t i = outputs[r].begin; i < outputs[r].end; ++i) {
        for (int64_t k = 0; k < own_inputs_.size(); ++k) result(k, i) = *from++;
      }
    }
    return result;
  }

  // ‖A − UV‖², element by element.
  double residual_squared(const Factors& factors) {
    Matrix<float> minus_u = factors.u;
    for (float& value : minus_u.data) value = -value;
    const int64_t r = minus_u.cols, k = shape_.in_features;
    std::vector<double> blocks(static_cast<size_t>((a_.rows + kRowBlock - 1) / kRowBlock));
    std::vector<Matrix<float>> scratch(static_cast<size_t>(threads_), Matrix<float>(kRowBlock, kInputPanel));
    for_each_block(a_.rows, threads_, [&](int64_t begin, int64_t rows, int thread) {
      float* rest = scratch[static_cast<size_t>(thread)].data.data();
      double sum = 0;
      for (int64_t first = 0; first < k; first += kInputPanel) {
        const int64_t width = std::min(kInputPanel, k - first);
        for (int64_t i = 0; i < rows; ++i) std::copy_n(a_.row(begin + i) + first, width, rest + i * width);
        multiply(false, false, rows, width, r, minus_u.row(begin), r, factors.v.data.data() + first, k, rest,
                 width, true);
        for (int64_t i = 0; i < rows * width; ++i) sum += static_cast<double>(rest[i]) * rest[i];
      }
      blocks[static_cast<size_t>(begin / kRowBlock)] = sum;
    });
    return ordered_sum(blocks, comm_);
  }

  const Matrix<float>& a_;
  int64_t row_begin_;
  Shape shape_;
  Communicator& comm_;
  int threads_;
  std::vector<Range> inputs_;  // K cut over ranks
  Range own_inputs_;
  double max_abs_, norm_squared_;
};

// The least r whose truncation stays within `error` by the singular values alone: ‖A‖² − Σσ² is exact for an
// orthonormal basis. The basis' size when none does.
int64_t least_rank(const std::vector<double>& sigma, double norm_squared, double error) {
  double rest = norm_squared;
  for (size_t r = 0; r < sigma.size(); ++r) {
    if (rest <= error * error * norm_squared && r > 0) return static_cast<int64_t>(r);
    rest -= sigma[r] * sigma[r];
  }
  return static_cast<int64_t>(sigma.size());
}

class RandomizedFactorizer final : public Factorizer {
 public:
  RandomizedFactorizer(Communicator& comm, int threads) : comm_(comm), threads_(std::max(1, threads)) {}

  Factors factorize(const RowSlab& slab, const RankRule& rule, uint64_t seed) override {
    int64_t rank = 0;
    together(comm_, [&] { rank = check(slab, rule); });
    try {
      Spread a(slab, comm_, threads_);
      if (!std::isfinite(a.max_magnitude()))
        throw AgreedError("svd: expected finite weights, found an infinity or NaN");
      if (a.norm_squared() == 0) return a.factors({}, std::max<int64_t>(1, rank));
      return rank > 0 ? by_rank(a, rank, seed) : by_error(a, rule.error, seed);
    } catch (const AgreedError&) {
      throw;
    } catch (const std::exception& error) {
      // Between collectives there is no way back into step: the other ranks wait in one.
      if (comm_.size() == 1) throw;
      abort_job(comm_, fmt::format("svd: {}", error.what()));
    }
  }

 private:
  // The rank that the rule asks for, 0 when it asks for an error. Throws what is wrong with the call.
  int64_t check(const RowSlab& slab, const RankRule& rule) const {
    const auto [n, k] = slab.shape;
    const Range rows = slab_rows(n, comm_);
    if (n < 1 || k < 1 || slab.rows.cols != k || slab.rows.rows != rows.size() ||
        (rows.size() > 0 && slab.row_begin != rows.begin)) {
      throw std::invalid_argument(
          fmt::format("svd: expected rows [{}, {}) of a {} × {} matrix, found {} rows of {} from {}",
                      rows.begin, rows.end, n, k, slab.rows.rows, slab.rows.cols, slab.row_begin));
    }
    if ((rule.rank != 0) + (rule.ratio != 0) + (rule.error != 0) != 1 || rule.rank < 0 ||
        !(rule.ratio >= 0) || !(rule.error >= 0)) {
      throw std::invalid_argument(
          fmt::format("svd: expected one of rank, ratio and error to be positive, found {}, {} and {}",
                      rule.rank, rule.ratio, rule.error));
    }
    if (rule.error > 0) return 0;
    const int64_t most = std::min(n, k);
    int64_t rank = rule.rank;
    if (rule.ratio > 0) {
      const double share =
          rule.ratio * static_cast<double>(n) * static_cast<double>(k) / static_cast<double>(n + k);
      rank = share >= static_cast<double>(most) ? most : static_cast<int64_t>(share);
    }
    if (rank < 1 || rank > most || (rank > kMaxSketch - kOversampling)) {
      throw std::invalid_argument(
          fmt::format("svd: expected a rank of 1 to {} for a {} × {} matrix, found {}",
                      std::min(most, kMaxSketch - kOversampling), n, k, rank));
    }
    return rank;
  }

  // A sketch this near the whole costs more than the whole, and says less.
  static bool take_whole(int64_t sketch, int64_t small_side) {
    return small_side <= kSmall || 4 * sketch >= 3 * small_side;
  }

  static Spread::Basis basis(Spread& a, int64_t sketch, uint64_t seed) {
    if (!take_whole(sketch, a.small_side())) return a.randomized(sketch, seed);
    if (a.small_side() > kMaxSketch) {
      throw AgreedError(
          fmt::format("svd: expected a smaller side of at most {} for a rank this near it, found {}; "
                      "ask for a lower rank or a larger error",
                      kMaxSketch, a.small_side()));
    }
    return a.whole();
  }

  static Factors by_rank(Spread& a, int64_t rank, uint64_t seed) {
    return a.factors(basis(a, std::min(a.small_side(), rank + kOversampling), seed), rank);
  }

  // Doubles the sketch until it holds the error with oversampling to spare, then takes the least rank.
  static Factors by_error(Spread& a, double error, uint64_t seed) {
    for (int64_t sketch = kFirstSketch;; sketch *= 2) {
      const bool last = take_whole(sketch, a.small_side());
      const Spread::Basis found = basis(a, sketch, seed);
      int64_t rank = least_rank(found.sigma, a.norm_squared(), error);
      if (!last && rank > sketch - kOversampling) continue;
      for (;;) {
        Factors factors = a.factors(found, rank);
        // Float32 rounding may leave the factors just above what the singular values promise.
        if (factors.error <= error || rank >= static_cast<int64_t>(found.sigma.size())) return factors;
        rank = std::min(static_cast<int64_t>(found.sigma.size()), rank + 1 + rank / 32);
      }
    }
  }

  Communicator& comm_;
  int threads_;
};

}  // namespace

std::unique_ptr<Factorizer> make_randomized_factorizer(Communicator& comm, int threads) {
  return std::make_unique<RandomizedFactorizer>(comm, threads);
}

}  // namespace lamina

// The randomized factorisation: an orthonormal basis of about the leading directions, found by multiplying
// random vectors, and the factorisation of A's projection on it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/basis.hpp"
#include "distributed/svd/coarse.hpp"
#include "distributed/svd/digits.hpp"
#include "distributed/svd/gpu_methods.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/products.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kFirstSketch = 64;  // columns of the first try at a share
constexpr int64_t kSmall = 256;       // a side up to this is decomposed whole
// Conditions from which on float32 products with AᵀA, or with A, lose digits of the smallest directions.
constexpr double kWorstSquared = 1e4;
constexpr double kWorstOnce = 1e2;
// The same of bfloat16 ones, where products are coarse at first: their noise of 2⁻⁹, spread over all
// directions, is then a tenth of the smallest of them.
constexpr double kWorstSquaredCoarse = 1e2;
constexpr double kWorstOnceCoarse = 1e1;
// Squared singular values below this share of the largest are rounding, of float32 data.
constexpr double kDependent = 1e-13;
// Below this share of the largest, their vectors are made orthonormal once more.
constexpr double kLeastOrthogonal = 1e-8;

// A sketch this near the whole costs more than the whole, and says less.
bool take_whole(int64_t sketch, int64_t small_side) {
  return small_side <= kSmall || 4 * sketch >= 3 * small_side;
}

// As gram's, but for what randomized never says.
SvdResult unknown_optimum(SvdResult result) {
  result.optimal_error = std::numeric_limits<double>::quiet_NaN();
  result.computed_by = "gram";
  return result;
}

SvdResult whole(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  if (options.device == "cuda") return unknown_optimum(gram_on_gpus(input, options, comm));
  SvdOptions same = options;
  same.same_for_any_ranks = true;
  same.eigensolver = "auto";
  // Of equal sides, the Gram matrix takes the one that is cut: let it be the same one for every layout.
  const bool square = input.shape.out_features == input.shape.in_features;
  double moving_s = 0;
  const InLayout by_rows = [&] {
    const Phase phase(moving_s, comm);
    return InLayout(input, square ? Layout::rows : input.distribution.layout, comm, options.threads);
  }();
  const Input as_rows{input.shape,        {.layout = Layout::rows},
                      by_rows.local(),    input.max_abs,
                      input.norm_squared, input.rank,
                      input.rest,         input.tiles};
  SvdResult result = gram_method().run(square ? as_rows : input, same, comm);
  result.phases.communicate_s += moving_s;
  return unknown_optimum(std::move(result));
}

// Before anything is multiplied, as LAPACK's counts of 32 bits would refuse it in the end. Collective.
void expect_columns(int64_t columns, const SvdOptions& options, Communicator& comm) {
  together(comm, [&] {
    if (options.device == "cpu") blas_int(sketch_eigen_work(columns));
  });
}

std::unique_ptr<Basis> make_basis(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  return options.device == "cuda" ? make_gpu_basis(input, options, comm)
                                  : make_host_basis(input, options, comm);
}

class Randomized {
 public:
  Randomized(const Input& input, const SvdOptions& options, Basis& basis)
      : input_(input), options_(options), basis_(basis) {}

  int64_t columns() const { return basis_.columns(); }

  // `more` columns of the basis beside those there are. Halko, Martinsson, Tropp 2011: orthonormalised power
  // iterations (algorithm 4.4), from vectors along the longer side, so that the basis lies along the shorter
  // one. Each but the first iterates AᵀA − α·I, which tells near directions further apart for as long as α is
  // below half the least eigenvalue that is wanted: Feng, Yu, Xie 2024 ("Algorithm 1043: Faster randomized
  // SVD with dynamic shifts"). Block by block as randQB_b does it (Martinsson, Voronin 2016), but of A itself
  // in place of what is left of it: so do Yu, Gu, Li 2018 ("Efficient randomized algorithms for the
  // fixed-precision low-rank matrix approximation"), and tell the error by ‖A‖² − ‖A·Q‖².
  void extend(int64_t more) {
    bool coarse = basis_.take_coarse(true);
    basis_.start(more);
    bool careful = false;         // whether both sides' vectors are made orthonormal
    double shift = 0, scale = 1;  // Z = scale·(AᵀA·Q − shift·Q)
    for (int done = 0;; ++done) {
      const bool last = done >= options_.power_iterations;
      const Orthonormalized found = basis_.orthonormalize(last ? 2 : 1, done > 0 && !last && !careful);
      if (done == 0) {
        careful = found.condition > kWorstOnce;
        if (coarse && found.condition > kWorstOnceCoarse) coarse = basis_.take_coarse(false);
      } else if (coarse && found.condition > kWorstSquaredCoarse) {
        // That iteration has lost digits: once more in float32, with care if it takes that.
        coarse = basis_.take_coarse(false);
        --done;
      } else if (!careful && found.condition > kWorstSquared) {
        // That iteration has lost digits: once more, with care.
        careful = true;
        --done;
      } else if (!careful) {
        // Z's least singular value is at most A's, squared, less the shift.
        shift = (found.least / scale + shift) / 2;
      }
      if (careful) shift = 0;
      if (done >= options_.power_iterations) break;
      scale = basis_.iterate(careful, shift);
    }
    captured_ += basis_.project();
  }

  // Share of ‖A‖² that the basis leaves out.
  double rest() const { return 1 - captured_ / input_.norm_squared; }

  // Of factors that leave this share of ‖A‖² out.
  double error_bound(double rest) const {
    return std::sqrt(std::max(0.0, rest) + rounding()) + kFactorRounding;
  }

  // The factorisation of A·Q, by its Gram matrix in float64; all its singular values for `choose`.
  Eigenpairs decompose(const ChooseRank& choose) { return basis_.decompose(choose); }

  // The first r of the pairs as factors.
  SvdResult result(const Eigenpairs& pairs, int64_t r) {
    SvdResult result;
    const double lost = rounding();
    result.singular_values.assign(static_cast<size_t>(r), 0.0);
    int64_t nonzero = 0;
    double kept = 0;
    for (; nonzero < r; ++nonzero) {
      const double square = pairs.values[static_cast<size_t>(nonzero)];
      if (!(square > kDependent * pairs.values[0])) break;
      kept += square;
      result.singular_values[static_cast<size_t>(nonzero)] = std::sqrt(square);
    }
    // Eigenvectors of a Gram matrix leave small directions less orthogonal than large ones. What
    // orthonormalising in order of size moves is 2⁻⁵³·σ_1²/σ_j and the like, nothing beside float32's
    // rounding.
    const bool again =
        nonzero > 0 && pairs.values[static_cast<size_t>(nonzero - 1)] < kLeastOrthogonal * pairs.values[0];
    const int64_t l = columns();
    Matrix<double> w(l, nonzero);
    for (int64_t j = 0; j < nonzero; ++j) {
      for (int64_t i = 0; i < l; ++i) w(i, j) = pairs.vectors(j, i);
    }
    Matrix<float> along_short = basis_.along_short(w, r);
    for (int64_t i = 0; i < l; ++i) {
      for (int64_t j = 0; j < nonzero; ++j) w(i, j) /= result.singular_values[static_cast<size_t>(j)];
    }
    Matrix<float> along_long = basis_.along_long(w, r, again);
    const bool long_is_rows = input_.shape.out_features >= input_.shape.in_features;
    result.u = std::move(long_is_rows ? along_long : along_short);
    result.v = std::move(long_is_rows ? along_short : along_long);
    result.error_bound = std::sqrt(std::max(0.0, 1 - kept / input_.norm_squared) + lost) + kFactorRounding;
    result.optimal_error = std::numeric_limits<double>::quiet_NaN();
    result.phases = basis_.phases();
    return result;
  }

 private:
  // Of the captured share of ‖A‖², with u = 2⁻⁵³, s the shorter side, l columns and b blocks of kRowBlock.
  // The float64 product has an error of at most s·u·|A||Q|, so s·u·√l·‖A‖ in all; LAPACK's eigenvalues are
  // some l²·u·‖A·Q‖² off in sum; ‖A‖² itself is a sum of (N + K) steps; and squares change twice as much.
  // Inner products are rounded to 2⁻⁴⁸ of the lengths in each block, which moves the eigenvalues' sum by √l·b
  // of that, and QᵀQ from I by l·b. Where A·Q's norm is off by d in ‖A‖, what it captures is by 2d, and the
  // factors by another d, squared.
  double rounding() const {
    const auto s = static_cast<double>(input_.small_side()), l = static_cast<double>(columns());
    const auto sides = static_cast<double>(input_.shape.out_features + input_.shape.in_features);
    const double blocks = sides / static_cast<double>(kRowBlock) + 2;
    const double norm = std::sqrt(input_.norm_squared), lost = basis_.lost() / norm;
    return lost * (2 + 2 * lost) + 0x1p-52 * (s * std::sqrt(l) + l * l + sides) +
           0x1p-48 * blocks * (l + std::sqrt(l));
  }

  const Input& input_;
  const SvdOptions& options_;
  Basis& basis_;
  double captured_ = 0;  // ‖A·Q‖²
};

// The sketch grows until it holds the share with oversampling to spare, so that the rank is about the least.
SvdResult by_share(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  int64_t target = kFirstSketch + options.oversampling;
  if (take_whole(target, input.small_side())) return whole(input, options, comm);
  const std::unique_ptr<Basis> basis = make_basis(input, options, comm);
  Randomized sketch(input, options, *basis);
  for (;;) {
    expect_columns(target, options, comm);
    sketch.extend(target - sketch.columns());
    if (sketch.error_bound(sketch.rest()) <= std::sqrt(input.rest)) {
      const auto choose = [&](const std::vector<double>& squares) {
        const int64_t rank =
            choose_rank(squares, input, [&](double rest, int64_t) { return sketch.error_bound(rest); });
        return rank <= sketch.columns() - options.oversampling ? rank : 0;
      };
      const Eigenpairs pairs = sketch.decompose(choose);
      if (pairs.vectors.rows > 0) return sketch.result(pairs, pairs.vectors.rows);
    }
    target += std::max(kFirstSketch, target / 2);
    if (take_whole(target, input.small_side())) {
      return whole(input, options, comm);
    }
  }
}

SvdResult run(const Input& input, const SvdOptions& options, TimedCommunicator& comm) {
  together(comm, [&] {
    if (options.oversampling < 0 || options.power_iterations < 0)
      throw std::invalid_argument(
          fmt::format("svd: expected oversampling and power iterations of 0 or more, found {} and {}",
                      options.oversampling, options.power_iterations));
  });
  if (input.rank == 0) return by_share(input, options, comm);
  const int64_t columns = std::min(input.small_side(), input.rank + options.oversampling);
  if (take_whole(columns, input.small_side())) return whole(input, options, comm);
  expect_columns(columns, options, comm);
  const std::unique_ptr<Basis> basis = make_basis(input, options, comm);
  Randomized sketch(input, options, *basis);
  sketch.extend(columns);
  const Eigenpairs pairs = sketch.decompose([&](const std::vector<double>&) { return input.rank; });
  return sketch.result(pairs, input.rank);
}

// A's copy where its shorter side was the spread one, and the most of: A's parts on their way to and from it,
// sums on theirs, the basis on all ranks beside A's products with it, eigenvectors on rank 0 beside both,
// factors as they are made of both. What the libraries keep was measured.
int64_t memory_bytes(Shape shape, Layout layout, int64_t rank, int ranks, const SvdOptions& options) {
  const int64_t s = std::min(shape.out_features, shape.in_features);
  const int64_t d = std::max(shape.out_features, shape.in_features);
  const int64_t l = std::min(s, rank + options.oversampling);
  if (options.device == "cuda") return gpu_host_bytes(shape, rank, ranks) + 16 * l * l + 4 * rank * d / ranks;
  if (take_whole(l, s)) return gram_method().named.memory_bytes(shape, layout, rank, ranks, options);
  const int64_t s_own = partition(s, ranks, kRowBlock)[0].size();
  const int64_t d_own = partition(d, ranks, kRowBlock)[0].size();
  const int64_t copy = InLayout::copies(layout, Products::layout(shape), ranks) ? 4 * s * d_own : 0;
  const int64_t moved = moving_bytes(layout, copy);
  const int64_t basis = 8 * s_own * l, products = 8 * d_own * l;
  const int64_t sums = ranks > 1 ? 16 * (s - s_own) * l : 0;
  // Coarse products have a factor in bfloat16 too, packed.
  const int64_t packed = coarse_is_fast() ? 2 : 0;
  const int64_t forward = basis + (4 + packed) * s * l + 4 * d_own * l + sums;  // these are kept
  const int64_t back = (4 + packed) * d_own * l + 2 * basis + sums;
  const int64_t project =
      products + basis + 8 * s * l +
      (digits_are_fast() ? digit_bytes(s, l, options.threads) + 4 * kRowBlock * s * options.threads : 0);
  const int64_t eigen = products + basis + 8 * 4 * l * l;
  const int64_t factors = products + basis + 4 * (d_own + s_own) * rank + 8 * 2 * l * rank;
  return uncounted_bytes(ranks) + copy + std::max({moved, forward, back, project, eigen, factors});
}

int64_t gpu_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions& options) {
  const int64_t s = std::min(shape.out_features, shape.in_features);
  const int64_t l = std::min(s, rank + options.oversampling);
  return take_whole(l, s) ? gram_gpu_bytes(shape, rank, ranks, options)
                          : gpu_basis_bytes(shape, l, rank, ranks);
}

}  // namespace

Method randomized_method() {
  return {{"randomized", "power iterations on random vectors (Halko, Martinsson, Tropp 2011); on GPUs too",
           "", false, memory_bytes, gpu_bytes},
          run,
          run};
}

}  // namespace lamina::svd

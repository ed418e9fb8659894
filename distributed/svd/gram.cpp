// The Gram matrix of the smaller side, its leading eigenvectors, and the other factor by a product.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/svd/filtered_eigen.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/panels.hpp"
#include "distributed/svd/polish.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"

namespace lamina::svd {

// Error of the float32 factors, of V with r columns and T = A·V, given the share ρ = 1 − ‖T‖²/‖A‖².
// Were V's columns orthonormal and T exact, ‖A − T·Vᵀ‖² = ρ·‖A‖². In float64, with ε = 2^-52 and s the
// smaller side: the product's rounding is at most s·ε/2·‖|A|·|V|‖ ≤ s·√r·ε/2·‖A‖, so ‖T‖² is off by at most
// s·√r·ε·‖A‖²; and eigenvectors are orthonormal to about s·ε, which moves ‖T·Vᵀ‖² by at most
// s·ε·‖A‖². Rounding to float32 adds kFactorRounding.
double gram_bound(double rho, int64_t small, int64_t r) {
  const double slack = static_cast<double>(small) * (std::sqrt(static_cast<double>(r)) + 1) * 0x1p-52;
  return std::sqrt(std::max(0.0, rho) + slack) + kFactorRounding;
}

namespace {

// From this side on, and from two ranks, a distributed solver is the faster one: docs/svd.md has the figures.
constexpr int64_t kDistributedSide = 2048;
constexpr int kElpaRanks = 4;  // ScaLAPACK is no slower with fewer

std::string eigensolver(const SvdOptions& options, int64_t side, int ranks) {
  if (options.eigensolver != "auto") return options.eigensolver;
  if (options.same_for_any_ranks || ranks < 2 || side < kDistributedSide) return "lapack";
  if (ranks >= kElpaRanks && elpa_absent().empty()) return "elpa";
  return scalapack_absent().empty() ? "scalapack" : "lapack";
}

Eigenpairs eigenpairs(SymmetricTiles&& gram, const ChooseRank& choose, const SvdOptions& options,
                      int64_t side, Communicator& comm, std::string& by) {
  by = eigensolver(options, side, comm.size());
  if (by == "scalapack") return scalapack_eigen(std::move(gram), choose, comm, options.threads);
  if (by == "elpa") return elpa_eigen(std::move(gram), choose, comm, options.threads);
  return lapack_eigen(std::move(gram), choose, comm, options.same_for_any_ranks ? 1 : options.threads);
}

void check_eigensolver(const SvdOptions& options) {
  const std::string& by = options.eigensolver;
  if (by != "auto" && by != "lapack" && by != "scalapack" && by != "elpa")
    throw AgreedError(
        fmt::format("svd: expected an eigensolver of auto, lapack, scalapack and elpa, found \"{}\"", by));
  const std::string absent = by == "scalapack" ? scalapack_absent() : by == "elpa" ? elpa_absent() : "";
  if (!absent.empty()) throw AgreedError(fmt::format("svd: {} is absent: {}", by, absent));
  if (options.same_for_any_ranks && (by == "scalapack" || by == "elpa"))
    throw AgreedError(
        fmt::format("svd: expected eigensolver lapack where results must not depend on the "
                    "ranks, found {}",
                    by));
}

// Both factors, of the smaller side and of the longer one, as they stand by their sides' shares.
struct Factored {
  Matrix<float> small, longer;
  std::vector<double> sigma;
  double projected = 0;  // ‖T‖² of what is kept
};

// this rank's rows of the smaller side: to(i, j) = vectors(j, begin + i).
void take_share(const Matrix<double>& vectors, Range share, Matrix<float>& to) {
  for (int64_t j = 0; j < vectors.rows; ++j) {
    const double* from = vectors.row(j) + share.begin;
    for (int64_t i = 0; i < share.size(); ++i) to(i, j) = static_cast<float>(from[i]);
  }
}

// U = T/σ, block by block: T itself is never kept.
void divide_out(const Input& input, const Matrix<double>& vectors, Factored& factored,
                TimedCommunicator& comm, int threads) {
  const int64_t r = vectors.rows, side = vectors.cols;
  std::vector<double> squares(static_cast<size_t>((factored.longer.rows + kRowBlock - 1) / kRowBlock));
  std::vector<Matrix<double>> scratch(static_cast<size_t>(threads));
  together(comm, [&] {
    for (Matrix<double>& each : scratch) each = Matrix<double>(kRowBlock, r);
  });
  for_each_panel<double>(
      input, {}, comm, threads, [&](int64_t first, int64_t depth, const Matrix<double>& panel) {
        for_each_block(depth, threads, [&](int64_t begin, int64_t rows, int thread) {
          double* product = scratch[static_cast<size_t>(thread)].data.data();
          multiply(false, true, rows, r, side, panel.row(begin), side, vectors.data.data(), side, product, r);
          double sum = 0;
          for (int64_t i = 0; i < rows; ++i) {
            float* out = factored.longer.row(first + begin + i);
            for (int64_t j = 0; j < r; ++j) {
              const double t = product[i * r + j];
              sum += t * t;
              out[j] = static_cast<float>(t / factored.sigma[static_cast<size_t>(j)]);
            }
          }
          squares[static_cast<size_t>((first + begin) / kRowBlock)] = sum;
        });
      });
  factored.projected = ordered_sum(squares, comm);
}

// T, this rank's rows of it.
Matrix<double> tall_product(const Input& input, const Matrix<double>& vectors, TimedCommunicator& comm,
                            int threads) {
  const int64_t r = vectors.rows, side = vectors.cols;
  const std::vector<Range> shares = partition(Sides(input).longer, comm.size(), kRowBlock);
  Matrix<double> tall;
  together(comm, [&] { tall = Matrix<double>(shares[static_cast<size_t>(comm.rank())].size(), r); });
  for_each_panel<double>(input, {}, comm, threads,
                         [&](int64_t first, int64_t depth, const Matrix<double>& panel) {
                           for_each_block(depth, threads, [&](int64_t begin, int64_t rows, int) {
                             multiply(false, true, rows, r, side, panel.row(begin), side, vectors.data.data(),
                                      side, tall.row(first + begin), r);
                           });
                         });
  return tall;
}

// this rank's rows of the smaller side times W: to(i, j) = Σ_k vectors(k, begin + i)·w(k, j).
void turn_share(const Matrix<double>& vectors, Range share, const Matrix<double>& w, Matrix<float>& to,
                int threads) {
  Matrix<double> own(share.size(), vectors.rows);
  for (int64_t j = 0; j < vectors.rows; ++j) {
    for (int64_t i = 0; i < own.rows; ++i) own(i, j) = vectors(j, share.begin + i);
  }
  own = times_small(own, w, threads);
  std::copy(own.data.begin(), own.data.end(), to.data.begin());
}

// U, V and σ from T made orthonormal.
void polish_out(const Input& input, const Matrix<double>& vectors, Range small_share, Factored& factored,
                TimedCommunicator& comm, int threads, SvdPhases& phases) {
  Matrix<double> tall;
  {
    const Phase phase(phases.multiply_s, comm);
    tall = tall_product(input, vectors, comm, threads);
  }
  const Phase phase(phases.orthogonalize_s, comm);
  Polished polished = polish(std::move(tall), Sides(input).longer, comm, threads);
  std::copy(polished.unit.data.begin(), polished.unit.data.end(), factored.longer.data.begin());
  turn_share(vectors, small_share, polished.rotation, factored.small, threads);
  factored.sigma = std::move(polished.values);
  for (const double sigma : factored.sigma) factored.projected += sigma * sigma;
}

// U, V and σ from T by the eigenvectors of TᵀT: of about the leading directions alone, none of them small.
void turn_out(const Input& input, const Matrix<double>& vectors, Range small_share, Factored& factored,
              TimedCommunicator& comm, int threads, SvdPhases& phases) {
  const int64_t r = vectors.rows;
  Matrix<double> tall;
  SymmetricTiles tiles;
  {
    const Phase phase(phases.multiply_s, comm);
    tall = tall_product(input, vectors, comm, threads);
    tiles = gram(tall, comm, threads);
    std::vector<double> squares(static_cast<size_t>((tall.rows + kRowBlock - 1) / kRowBlock));
    for (int64_t i = 0; i < tall.rows; ++i) {
      for (int64_t j = 0; j < r; ++j) squares[static_cast<size_t>(i / kRowBlock)] += tall(i, j) * tall(i, j);
    }
    factored.projected = ordered_sum(squares, comm);
  }
  Eigenpairs pairs;
  {
    const Phase phase(phases.eigensolve_s, comm);
    pairs = sketch_eigen(
        std::move(tiles), [&](const std::vector<double>&) { return r; }, comm);
  }
  const Phase phase(phases.multiply_s, comm);
  together(comm, [&] {
    Matrix<double> w(r, r);
    for (int64_t j = 0; j < r; ++j) {
      for (int64_t k = 0; k < r; ++k) w(k, j) = pairs.vectors(j, k);
    }
    turn_share(vectors, small_share, w, factored.small, threads);
    factored.sigma.clear();
    for (int64_t j = 0; j < r; ++j) {
      factored.sigma.push_back(std::sqrt(pairs.values[static_cast<size_t>(j)]));
      for (int64_t k = 0; k < r; ++k) w(k, j) /= factored.sigma.back();
    }
    std::vector<Matrix<double>> scratch(static_cast<size_t>(threads), Matrix<double>(kRowBlock, r));
    for_each_block(tall.rows, threads, [&](int64_t begin, int64_t rows, int thread) {
      double* product = scratch[static_cast<size_t>(thread)].data.data();
      multiply(false, false, rows, r, r, tall.row(begin), r, w.data.data(), r, product, r);
      std::copy_n(product, rows * r, factored.longer.row(begin));
    });
  });
}

SvdResult run(const Input& given, const SvdOptions& options, TimedCommunicator& comm) {
  check_eigensolver(options);
  const Sides sides(given);
  const int threads = options.threads;
  Layout layout = given.distribution.layout;
  if (layout == Layout::block_cyclic) layout = sides.long_is_rows ? Layout::rows : Layout::columns;
  const InLayout in_layout(given, layout, comm, threads);
  const Input input{given.shape,        {.layout = layout}, in_layout.local(), given.max_abs,
                    given.norm_squared, given.rank,         given.rest};
  SvdResult result;
  const auto gram_in = [&]<class T>(T) {
    const Phase phase(result.phases.multiply_s, comm);
    return gram_tiles<T>(input, comm, threads);
  };
  Eigenpairs pairs;
  if (gram_by_filters(input.rank, given.shape, options)) {
    // Whose own products are in float32.
    const SymmetricTiles tiles = gram_in(0.0f);
    const Phase phase(result.phases.eigensolve_s, comm);
    pairs = filtered_eigen(tiles, input.rank, options.seed, comm, threads);
  }
  const bool filtered = pairs.vectors.rows > 0;
  if (filtered) {
    result.solved_by = "filters";
  } else {
    SymmetricTiles tiles = gram_in(0.0);
    const Phase phase(result.phases.eigensolve_s, comm);
    const ChooseRank choose = [&](const std::vector<double>& values) {
      return choose_rank(values, input,
                         [&](double rho, int64_t r) { return gram_bound(rho, sides.small, r); });
    };
    pairs = eigenpairs(std::move(tiles), choose, options, sides.small, comm, result.solved_by);
  }
  const int64_t r = pairs.vectors.rows;
  if (static_cast<int64_t>(pairs.values.size()) == sides.small) {
    double rest = 0;
    for (size_t i = static_cast<size_t>(r); i < pairs.values.size(); ++i) rest += pairs.values[i];
    result.optimal_error = std::sqrt(std::max(0.0, rest) / input.norm_squared);
  } else {
    result.optimal_error = std::numeric_limits<double>::quiet_NaN();
  }

  const size_t own = static_cast<size_t>(comm.rank());
  const Range small_share = partition(sides.small, comm.size(), kRowBlock)[own];
  Factored factored;
  together(comm, [&] {
    factored.longer = Matrix<float>(partition(sides.longer, comm.size(), kRowBlock)[own].size(), r);
    factored.small = Matrix<float>(small_share.size(), r);
  });
  for (int64_t i = 0; i < r; ++i)
    factored.sigma.push_back(std::sqrt(std::max(0.0, pairs.values[static_cast<size_t>(i)])));
  if (filtered) {
    turn_out(input, pairs.vectors, small_share, factored, comm, threads, result.phases);
  } else if (factored.sigma.back() < kPolishBelow * factored.sigma.front()) {
    polish_out(input, pairs.vectors, small_share, factored, comm, threads, result.phases);
  } else {
    const Phase phase(result.phases.multiply_s, comm);
    take_share(pairs.vectors, small_share, factored.small);
    divide_out(input, pairs.vectors, factored, comm, threads);
  }
  // What is turned once more is rounded once more.
  result.error_bound =
      gram_bound(1 - factored.projected / input.norm_squared, filtered ? 2 * sides.small : sides.small, r);
  result.singular_values = std::move(factored.sigma);
  result.u = std::move(sides.long_is_rows ? factored.longer : factored.small);
  result.v = std::move(sides.long_is_rows ? factored.small : factored.longer);
  return result;
}

// Filters have the tiles beside what they work on; LAPACK has them, on rank 0, while it makes the whole
// matrix of them, then that and the eigenvectors.
int64_t memory_bytes(Shape shape, int64_t rank, int ranks, const SvdOptions& options) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  const int64_t longer = std::max(shape.out_features, shape.in_features);
  const int64_t side = SymmetricTiles::kSide;
  const int64_t tiles = 8 * (small * small + small * std::min(side, small)) / 2;
  const int64_t panels = panel_bytes(shape, ranks) + 8 * side * side * options.threads;
  const int64_t vectors = 8 * rank * small;
  const int64_t blocks = (longer + kRowBlock - 1) / kRowBlock;
  const int64_t share = std::min(longer, (blocks + ranks - 1) / ranks * kRowBlock);
  const int64_t factors = 4 * rank * (share + (small + ranks - 1) / ranks);
  const std::string by = eigensolver(options, small, ranks);
  const bool few = gram_by_filters(rank, shape, options);
  const int64_t solving = few            ? tiles + filtered_eigen_bytes(small, rank, ranks, options.threads)
                          : by == "elpa" ? tiles + elpa_eigen_bytes(small, rank, ranks)
                          : by == "scalapack" ? tiles + scalapack_eigen_bytes(small, rank, ranks)
                                              : 8 * small * small + std::max(tiles, vectors + 8 * 64 * small);
  // OpenBLAS packs up to 256 rows of one operand as long as the matrix, on each thread, and keeps that.
  const int64_t packed = 8 * 256 * (std::min<int64_t>(small, 13'824) + 512) * options.threads;
  const int64_t product = few ? rank * share : kRowBlock * rank * options.threads;
  const int64_t multiplying = vectors + factors + panel_bytes(shape, ranks) + 8 * product;
  return packed + std::max({tiles + panels, solving, multiplying});
}

}  // namespace

bool gram_by_filters(int64_t rank, Shape shape, const SvdOptions& options) {
  return options.eigensolver == "auto" && is_few(rank, std::min(shape.out_features, shape.in_features));
}

Method gram_method() {
  return {{"gram", "eigenvectors of the smaller side's Gram matrix, summed exactly in float64", "", false,
           memory_bytes},
          run};
}

}  // namespace lamina::svd

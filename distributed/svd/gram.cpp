// The Gram matrix of the smaller side, its leading eigenvectors, and the other factor by a product.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/scalapack.hpp"
#include "distributed/svd/coarse.hpp"
#include "distributed/svd/digits.hpp"
#include "distributed/svd/filtered_eigen.hpp"
#include "distributed/svd/gpu_methods.hpp"
#include "distributed/svd/gram_end.hpp"
#include "distributed/svd/gram_rows.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/panels.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"

namespace lamina::svd {

namespace {

// From this side on, and from two ranks, a distributed solver is the faster one: docs/svd.md has the figures.
constexpr int64_t kDistributedSide = 2048;
constexpr int kElpaRanks = 4;  // on two it gains 3 to 4 %, not worth another library; four are not measured

// Of ‖A‖²: bfloat16's rounding of A, 2^-9 of its elements at the most, moves what the eigenvectors leave out
// by some 10^-7 of that, by its square. Where they leave out less than this, it is as if of float32 numbers.
constexpr double kLeastCoarse = 0.05;

double left_out(const Input& input, const Factored& factored) {
  return std::max(0.0, 1 - factored.projected / input.norm_squared);
}

Eigenpairs eigenpairs(SymmetricTiles&& gram, const ChooseRank& choose, const SvdOptions& options,
                      int64_t side, Communicator& comm, std::string& by) {
  by = gram_eigensolver(options, side, comm.size());
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
            double of_row = 0;
            for (int64_t j = 0; j < r; ++j) {
              const double t = product[i * r + j];
              of_row += t * t;
              out[j] = static_cast<float>(t / factored.sigma[static_cast<size_t>(j)]);
            }
            sum += of_row;
          }
          squares[static_cast<size_t>((first + begin) / kRowBlock)] = sum;
        });
      });
  factored.projected = ordered_sum(squares, comm);
}

// T = A·V, this rank's rows.
Matrix<double> product(const Input& input, const Matrix<double>& vectors, int64_t rows,
                       TimedCommunicator& comm, int threads) {
  const int64_t r = vectors.rows, side = vectors.cols;
  Matrix<double> tall;
  together(comm, [&] { tall = Matrix<double>(rows, r); });
  for_each_panel<double>(input, {}, comm, threads,
                         [&](int64_t first, int64_t depth, const Matrix<double>& panel) {
                           for_each_block(depth, threads, [&](int64_t begin, int64_t height, int) {
                             multiply(false, true, height, r, side, panel.row(begin), side,
                                      vectors.data.data(), side, tall.row(first + begin), r);
                           });
                         });
  return tall;
}

// The same by digits: ‖T‖ is off by `lost` at most.
Matrix<double> digit_product(const Input& input, const Matrix<double>& vectors, int64_t rows, double& lost,
                             TimedCommunicator& comm, int threads) {
  const int64_t r = vectors.rows, side = vectors.cols;
  Matrix<double> tall;
  std::optional<DigitTall> digits;
  std::vector<DigitScratch> scratch;
  together(comm, [&] {
    tall = Matrix<double>(rows, r);
    digits.emplace(transposed(vectors), threads);
    for (int thread = 0; thread < threads; ++thread) scratch.push_back(digits->scratch());
  });
  lost = digits->error(std::sqrt(input.norm_squared), input.max_abs,
                       std::max(input.shape.out_features, input.shape.in_features));
  const auto add_panel = [&](int64_t first, int64_t depth, const Matrix<float>& panel) {
    for_each_block(depth, threads, [&](int64_t begin, int64_t height, int thread) {
      digits->multiply(scratch[static_cast<size_t>(thread)], panel.row(begin), side, height,
                       tall.row(first + begin));
    });
  };
  for_each_panel<float>(input, {}, comm, threads, add_panel);
  return tall;
}

// Whether directions of a Gram matrix in bfloat16 leave too little out for its rounding not to matter.
bool is_too_coarse(const Input& input, const Factored& factored) {
  return left_out(input, factored) < kLeastCoarse;
}

// U, V and σ from T by the eigenvectors of TᵀT: of about the leading directions alone, none of them small.
// Where these are `coarse` and leave too little out, what they leave alone; no σ where some are small after
// all, as directions are that A does not have: of a side so large that rounding hides that from filters.
Factored turned(const Input& input, const Matrix<double>& vectors, bool coarse, int64_t long_rows,
                TimedCommunicator& comm, int threads, SvdPhases& phases) {
  const int64_t r = vectors.rows;
  const Range share = partition(vectors.cols, comm.size(), kRowBlock)[static_cast<size_t>(comm.rank())];
  Factored factored;
  Matrix<double> tall;
  SymmetricTiles tiles;
  {
    const Phase phase(phases.multiply_s, comm);
    bool by_digits = input.tiles;
    if (by_digits) {
      tall = digit_product(input, vectors, long_rows, factored.lost, comm, threads);
      factored.projected = squares(tall, comm);
      if (coarse && is_too_coarse(input, factored)) return factored;
      by_digits = is_sharp(factored.lost / std::sqrt(input.norm_squared), left_out(input, factored));
    }
    if (!by_digits) {
      factored.lost = 0;
      tall = product(input, vectors, long_rows, comm, threads);
      factored.projected = squares(tall, comm);
    }
    if (coarse && is_too_coarse(input, factored)) return factored;
    tiles = gram(tall, comm, threads);
  }
  Eigenpairs pairs;
  {
    const Phase phase(phases.eigensolve_s, comm);
    pairs = sketch_eigen(
        std::move(tiles), [&](const std::vector<double>&) { return r; }, comm);
  }
  std::vector<double> sigma = roots(pairs.values, r);
  if (needs_polish(sigma)) return factored;
  const Phase phase(phases.multiply_s, comm);
  together(comm, [&] {
    Matrix<double> w = transposed(pairs.vectors);
    factored.small = small_times(vectors, share, w, threads);
    factored.longer = Matrix<float>(tall.rows, r);
    factored.sigma = std::move(sigma);
    for (int64_t k = 0; k < r; ++k) {
      for (int64_t j = 0; j < r; ++j) w(k, j) /= factored.sigma[static_cast<size_t>(j)];
    }
    std::vector<Matrix<double>> scratch(static_cast<size_t>(threads), Matrix<double>(kRowBlock, r));
    for_each_block(tall.rows, threads, [&](int64_t begin, int64_t rows, int thread) {
      double* block = scratch[static_cast<size_t>(thread)].data.data();
      multiply(false, false, rows, r, r, tall.row(begin), r, w.data.data(), r, block, r);
      std::copy_n(block, rows * r, factored.longer.row(begin));
    });
  });
  return factored;
}

// For filters A is read twice, and they leave room for a copy.
Layout multiplied_in(const Sides& sides, Layout lies, bool few) {
  if (!few && lies != Layout::block_cyclic) return lies;
  return sides.long_is_rows ? Layout::rows : Layout::columns;
}

SvdResult run(const Input& given, const SvdOptions& options, TimedCommunicator& comm) {
  check_eigensolver(options);
  const Sides sides(given);
  const int threads = options.threads;
  const bool few = gram_by_filters(given.rank, given.shape, options);
  const Layout layout = multiplied_in(sides, given.distribution.layout, few);
  SvdResult result;
  const InLayout in_layout = [&] {
    const Phase phase(result.phases.communicate_s, comm);
    return InLayout(given, layout, comm, threads);
  }();
  const Input input{given.shape,        {.layout = layout}, in_layout.local(), given.max_abs,
                    given.norm_squared, given.rank,         given.rest,        given.tiles};
  const size_t own = static_cast<size_t>(comm.rank());
  const int64_t long_rows = partition(sides.longer, comm.size(), kRowBlock)[own].size();
  Eigenpairs pairs;
  Factored factored;
  bool filtered = false, coarse = input.tiles;
  for (bool again = few; again;) {
    Matrix<float> rows;
    {
      const Phase phase(result.phases.multiply_s, comm);
      rows = gram_rows(input, comm, threads, coarse);
    }
    {
      const Phase phase(result.phases.eigensolve_s, comm);
      pairs = filtered_eigen(std::move(rows), input.rank, options.seed, comm, threads);
    }
    filtered = pairs.vectors.rows > 0;
    if (filtered) factored = turned(input, pairs.vectors, coarse, long_rows, comm, threads, result.phases);
    again = filtered && coarse && is_too_coarse(input, factored);
    coarse = false;
  }
  filtered = filtered && !factored.sigma.empty();
  if (filtered) {
    result.solved_by = "filters";
  } else {
    SymmetricTiles tiles;
    {
      const Phase phase(result.phases.multiply_s, comm);
      tiles = gram_tiles(input, comm, threads);
    }
    const Phase phase(result.phases.eigensolve_s, comm);
    const ChooseRank choose = [&](const std::vector<double>& values) {
      return choose_rank(values, input,
                         [&](double rho, int64_t r) { return gram_bound(rho, given.shape, r); });
    };
    pairs = eigenpairs(std::move(tiles), choose, options, sides.small, comm, result.solved_by);
    factored = {};  // of a try by filters, too
    factored.sigma = roots(pairs.values, pairs.vectors.rows);
  }
  const int64_t r = pairs.vectors.rows;
  if (!filtered && needs_polish(factored.sigma)) {
    Matrix<double> tall;
    {
      const Phase phase(result.phases.multiply_s, comm);
      tall = product(input, pairs.vectors, long_rows, comm, threads);
    }
    const Phase phase(result.phases.orthogonalize_s, comm);
    factored = polished(std::move(tall), pairs.vectors, sides.longer, comm, threads);
  } else if (!filtered) {
    const Phase phase(result.phases.multiply_s, comm);
    const Range small_share = partition(sides.small, comm.size(), kRowBlock)[own];
    together(comm, [&] {
      factored.longer = Matrix<float>(long_rows, r);
      factored.small = Matrix<float>(small_share.size(), r);
    });
    take_share(pairs.vectors, small_share, factored.small);
    divide_out(input, pairs.vectors, factored, comm, threads);
  }
  conclude(input, sides.long_is_rows, pairs.values, std::move(factored), result);
  return result;
}

// Filters have their rows of the Gram matrix, and A where it had to be copied; LAPACK has tiles, on rank 0,
// while it makes the whole matrix of them, then that and the eigenvectors.
int64_t memory_bytes(Shape shape, Layout layout, int64_t rank, int ranks, const SvdOptions& options) {
  if (options.device == "cuda") return gpu_host_bytes(shape, rank, ranks);
  const Sides sides(shape, layout);
  const int64_t small = sides.small, longer = sides.longer;
  const int64_t side = SymmetricTiles::kSide;
  const int64_t tiles = 8 * (small * small + small * std::min(side, small)) / 2;
  const bool few = gram_by_filters(rank, shape, options);
  const Layout multiplied = multiplied_in(sides, layout, few);
  const bool copied = InLayout::copies(layout, multiplied, ranks);
  const int64_t panel = panel_bytes(shape, sides.lie_apart(multiplied) ? 1 : ranks);
  const int64_t panels = panel + 8 * side * side * options.threads;
  const int64_t vectors = 8 * rank * small;
  const int64_t blocks = (longer + kRowBlock - 1) / kRowBlock;
  const int64_t share = std::min(longer, (blocks + ranks - 1) / ranks * kRowBlock);
  const int64_t factors = 4 * rank * (share + (small + ranks - 1) / ranks);
  const std::string by = gram_eigensolver(options, small, ranks);
  const int64_t solving = few                 ? filtered_eigen_bytes(small, rank, ranks, options.threads)
                          : by == "elpa"      ? tiles + elpa_eigen_bytes(small, rank, ranks)
                          : by == "scalapack" ? tiles + scalapack_eigen_bytes(small, rank, ranks)
                                              : 8 * small * small + std::max(tiles, vectors + 8 * 64 * small);
  // OpenBLAS packs up to 256 rows of one operand as long as the matrix, on each thread, and keeps that.
  // Filters multiply float32 numbers (the float64 product after them is as narrow as the rank), and where
  // their products are coarse ones hardly need it.
  const bool coarse = coarse_is_fast();
  const int64_t number = !few ? 8 : coarse ? 0 : 4;
  const int64_t packed = number * 256 * (std::min<int64_t>(small, 13'824) + 512) * options.threads;
  const int64_t product = few ? rank * share : kRowBlock * rank * options.threads;
  const int64_t digits = few && digits_are_fast() ? digit_bytes(small, rank, options.threads) + vectors : 0;
  const int64_t copy = copied ? 4 * small * share : 0;  // then nothing moves with the panels
  const int64_t moved = moving_bytes(layout, copy);
  const int64_t multiplying = vectors + factors + panel + 8 * product + digits;
  const int64_t summing = few ? gram_rows_bytes(shape, ranks, options.threads, coarse) : tiles + panels;
  return (few ? uncounted_bytes(ranks) : 0) + packed + copy +
         std::max({moved, summing, solving, multiplying});
}

}  // namespace

bool gram_by_filters(int64_t rank, Shape shape, const SvdOptions& options) {
  return options.eigensolver == "auto" && is_few(rank, std::min(shape.out_features, shape.in_features));
}

std::string gram_eigensolver(const SvdOptions& options, int64_t side, int ranks) {
  if (options.eigensolver != "auto") return options.eigensolver;
  if (options.same_for_any_ranks || ranks < 2 || side < kDistributedSide) return "lapack";
  if (ranks >= kElpaRanks && elpa_absent().empty()) return "elpa";
  return scalapack_absent().empty() ? "scalapack" : "lapack";
}

Method gram_method() {
  return {{"gram", "eigenvectors of the smaller side's Gram matrix, summed exactly in float64; on GPUs too",
           "", false, memory_bytes, gram_gpu_bytes},
          run,
          gram_on_gpus};
}

}  // namespace lamina::svd

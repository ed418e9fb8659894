// What factors leave of the matrix, in float64 whatever the method promised; and the factors as schemes want
// them.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/svd/in_step.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/tall.hpp"
#include "distributed/svd/whiten.hpp"
#include "kernels/cpu/blas_threads.hpp"

namespace lamina {
namespace svd {
namespace {

constexpr int64_t kPanel = 512;  // of the side that A has whole on each rank

// Rows `wanted` of a factor spread by rows in `ranges`: [wanted × r], on every rank.
void gather_rows(const Matrix<float>& own, const std::vector<Range>& ranges, Range wanted, Matrix<float>& to,
                 Communicator& comm) {
  std::vector<int64_t> bytes;
  const float* from = own.data.data();
  for (size_t r = 0; r < ranges.size(); ++r) {
    const int64_t begin = std::clamp(ranges[r].begin, wanted.begin, wanted.end);
    const int64_t end = std::clamp(ranges[r].end, wanted.begin, wanted.end);
    bytes.push_back(4 * (end - begin) * own.cols);
    if (static_cast<int>(r) == comm.rank() && end > begin) from = own.row(begin - ranges[r].begin);
  }
  comm.all_gather(from, to.data.data(), bytes);
}

}  // namespace

double residual_squared(const Input& input, const Matrix<float>& u, const std::vector<double>& sigma,
                        const Matrix<float>& v, Communicator& comm, int threads) {
  const bool by_rows = input.distribution.layout == Layout::rows || comm.size() == 1;
  const Matrix<float>& a = input.local;
  // The factor of the side that is cut lies as A does; the other comes panel by panel.
  const Matrix<float>& own = by_rows ? u : v;
  const Matrix<float>& other = by_rows ? v : u;
  const int64_t r = own.cols, whole = by_rows ? input.shape.in_features : input.shape.out_features;
  const std::vector<Range> ranges = partition(whole, comm.size(), kRowBlock);
  const int64_t blocks = (own.rows + kRowBlock - 1) / kRowBlock;
  std::vector<double> sums(static_cast<size_t>(blocks), 0.0);
  Matrix<float> panel;
  Matrix<double> wide;
  struct Scratch {
    Matrix<double> scaled, product;
  };
  std::vector<Scratch> scratch(static_cast<size_t>(threads));
  together(comm, [&] {
    panel = Matrix<float>(std::min(kPanel, whole), r);
    wide = Matrix<double>(panel.rows, r);
    for (Scratch& each : scratch) each = {Matrix<double>(kRowBlock, r), Matrix<double>(kRowBlock, kPanel)};
  });
  for (int64_t first = 0; first < whole; first += kPanel) {
    const int64_t width = std::min(kPanel, whole - first);
    gather_rows(other, ranges, {first, first + width}, panel, comm);
    std::copy_n(panel.data.begin(), width * r, wide.data.begin());
    for_each_block(own.rows, threads, [&](int64_t begin, int64_t rows, int thread) {
      Scratch& mine = scratch[static_cast<size_t>(thread)];
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < r; ++j)
          mine.scaled(i, j) = own(begin + i, j) * (sigma.empty() ? 1 : sigma[static_cast<size_t>(j)]);
      }
      double* product = mine.product.data.data();
      multiply(false, true, rows, width, r, mine.scaled.data.data(), r, wide.data.data(), r, product, width);
      double sum = 0;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          const double rest =
              (by_rows ? a(begin + i, first + j) : a(first + j, begin + i)) - product[i * width + j];
          sum += rest * rest;
        }
      }
      sums[static_cast<size_t>(begin / kRowBlock)] += sum;
    });
  }
  return ordered_sum(sums, comm);
}

namespace {

// Of ‖A‖²: 0 where A is zero and so are its factors.
double relative(double squares, double norm_squared) {
  return squares == 0 ? 0 : std::sqrt(squares / norm_squared);
}

// What √σ in either factor adds to a bound that is of U, σ and V: the root and its product with each element
// are rounded to float32, of U and of V, whose columns are orthonormal.
constexpr double kSplitRounding = 2 * kFactorRounding;

// 2⁻²⁴ of it is a normal number yet.
constexpr double kLeastWhitened = 0x1p-102;

// What a method is asked for, so that factors with √σ in them still keep the rule.
RankRule stricter(RankRule rule) {
  const auto less = [](double error) { return std::max(error - kSplitRounding, error / 2); };
  if (rule.error > 0) rule.error = less(rule.error);
  if (rule.energy > 0) rule.energy = 1 - std::pow(less(std::sqrt(1 - rule.energy)), 2);
  return rule;
}

class SvdFactorizer final : public Factorizer {
 public:
  SvdFactorizer(Communicator& comm, SvdOptions options, Calibration calibration, GpuTransport gpus)
      : comm_(comm),
        options_(std::move(options)),
        calibration_(std::move(calibration)),
        gpus_(std::move(gpus)) {
    options_.threads = std::max(1, options_.threads);
    options_.same_for_any_ranks = true;
  }

  Factors factorize(const RowSlab& slab, const FactorRequest& asked, uint64_t seed) override {
    FactorRequest request = asked;
    request.rule = stricter(asked.rule);
    SvdOptions options = options_;
    options.method = request.method;
    options.seed = seed;
    options.device = request.device;
    if (request.device != "cpu" && comm_.size() > 1 && gpus_) options.transport = &gpus_();
    Input input{slab.shape, {}, slab.rows};
    Factors factors;
    SvdResult svd = request.whiten == Whiten::none
                        ? svd::factorize(slab.shape, {}, slab.rows, request.rule, options, comm_)
                        : whitened(slab, request, options, factors);
    // Of whitened factors the bound is one of before whitening is taken back.
    const bool plain = request.whiten == Whiten::none;
    const double bound = svd.error_bound + (plain ? kSplitRounding : 0);
    for (std::string& warning : svd_warnings(svd, request.method, asked.rule, bound))
      factors.warnings.push_back(std::move(warning));
    // V's columns have norm 1, or what whitening leaves of it: half of that goes to U.
    const std::vector<double> length =
        plain ? std::vector<double>(svd.singular_values.size(), 1) : norms(svd.v);
    for (size_t j = 0; j < length.size(); ++j) {
      if (svd.singular_values[j] == 0) continue;  // and so are both columns
      const double root = std::sqrt(svd.singular_values[j] * length[j]);
      const auto left = static_cast<float>(root), right = static_cast<float>(root / length[j]);
      if (!plain && !(left > 0 && std::isfinite(left) && std::isfinite(right)))
        throw AgreedError(
            "whitening: expected factors that fit float32 when it is taken back from them, found that they "
            "do "
            "not; scale the calibration tokens");
      for (int64_t i = 0; i < svd.u.rows; ++i) svd.u(i, static_cast<int64_t>(j)) *= left;
      for (int64_t i = 0; i < svd.v.rows; ++i) svd.v(i, static_cast<int64_t>(j)) *= right;
    }
    factors.error = verified(factors, [&] {
      double norm = svd.norm * svd.norm;
      if (!plain) {
        input.max_abs = max_abs(slab.rows, comm_, options.threads);
        norm = exact_squares(input, comm_, options.threads);
      }
      return relative(residual_squared(input, svd.u, {}, svd.v, comm_, options.threads), norm);
    });
    if (plain) factors.promise = {factors.error, bound};
    gather(svd.v, slab.shape.in_features, factors.v);
    factors.u = std::move(svd.u);
    factors.singular_values = std::move(svd.singular_values);
    return factors;
  }

 private:
  // What `error` finds; its time is not the factors'.
  template <class Error>
  static double verified(Factors& factors, Error&& error) {
    const auto begin = std::chrono::steady_clock::now();
    const double found = error();
    factors.verify_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return found;
  }

  SvdResult whitened(const RowSlab& slab, const FactorRequest& request, const SvdOptions& options,
                     Factors& factors) {
    const double largest_weight = max_abs(slab.rows, comm_, options.threads);
    if (!std::isfinite(largest_weight))
      throw AgreedError("svd: expected finite weights, found an infinity or NaN");
    return in_step(comm_, "whitening", [&] {
      Whitening whitening(request.whiten, request.damping, slab.shape.in_features, request.calibration_tokens,
                          calibration_, comm_, options.threads);
      factors.warnings = whitening.warnings();
      Matrix<float> product = whitening.apply(slab.rows);
      const double largest = max_abs(product, comm_, options.threads);
      if (!std::isfinite(largest))
        throw AgreedError(
            "whitening: expected weights times the calibration tokens' size to fit float32, found that they "
            "overflow; scale either down");
      // Where float32 has fewer digits, or none. What a sum's base leaves of W may be as little.
      if (!slab.remainder && largest < kLeastWhitened && largest_weight > 0)
        throw AgreedError(fmt::format(
            "whitening: expected weights times the calibration tokens' size to fit float32, found at most "
            "{:.3g}; scale either up",
            largest));
      SvdResult svd = svd::factorize(slab.shape, {}, product, request.rule, options, comm_);
      const double error = verified(factors, [&] {
        return relative(residual_squared({slab.shape, {}, product}, svd.u, svd.singular_values, svd.v, comm_,
                                         options.threads),
                        svd.norm * svd.norm);
      });
      factors.promise = {error, svd.error_bound};
      product = {};
      whitening.undo(svd.v);
      return svd;
    });
  }

  // Lengths of V's columns, over all ranks' rows: by blocks of rows, in order.
  std::vector<double> norms(const Matrix<float>& v) {
    std::vector<double> length(static_cast<size_t>(v.cols));
    for (int64_t j = 0; j < v.cols; ++j) {
      std::vector<double> blocks(static_cast<size_t>((v.rows + kRowBlock - 1) / kRowBlock));
      for (int64_t i = 0; i < v.rows; ++i)
        blocks[static_cast<size_t>(i / kRowBlock)] += static_cast<double>(v(i, j)) * v(i, j);
      length[static_cast<size_t>(j)] = std::sqrt(ordered_sum(blocks, comm_));
    }
    return length;
  }

  // All ranks' rows of V as Vᵀ [r × K] on every rank.
  void gather(const Matrix<float>& own, int64_t in_features, Matrix<float>& whole) {
    const std::vector<Range> ranges = partition(in_features, comm_.size(), kRowBlock);
    Matrix<float> panel;
    together(comm_, [&] {
      panel = Matrix<float>(std::min(kPanel, in_features), own.cols);
      whole = Matrix<float>(own.cols, in_features);
    });
    for (int64_t first = 0; first < in_features; first += kPanel) {
      const int64_t width = std::min(kPanel, in_features - first);
      gather_rows(own, ranges, {first, first + width}, panel, comm_);
      for (int64_t k = 0; k < width; ++k) {
        for (int64_t j = 0; j < own.cols; ++j) whole(j, first + k) = panel(k, j);
      }
    }
  }

  Communicator& comm_;
  SvdOptions options_;
  Calibration calibration_;
  GpuTransport gpus_;
};

}  // namespace
}  // namespace svd

std::vector<std::string> svd_warnings(const SvdResult& result, const std::string& method,
                                      const RankRule& rule, double bound) {
  std::vector<std::string> said;
  if (result.computed_by != method)
    said.push_back(fmt::format("computed by {}: a sketch for this rank would be nearly the whole matrix",
                               result.computed_by));
  const double asked = rule.error > 0 ? rule.error : rule.energy > 0 ? std::sqrt(1 - rule.energy) : bound;
  if (bound > asked)
    said.push_back(
        fmt::format("the rank is whole: float32 factors cannot be shown to be within {:.3g}", asked));
  return said;
}

int64_t residual_bytes(int64_t rank, int threads) {
  const int64_t panels = (4 + 8) * svd::kPanel * rank;
  return panels + 8 * kRowBlock * threads * (rank + svd::kPanel);
}

double residual(const SpreadMatrix& a, const SvdResult& factors, Communicator& comm, int threads) {
  const svd::Input given{a.shape, a.distribution, a.local};
  const bool dealt = a.distribution.layout == Layout::block_cyclic;
  const Layout layout = dealt ? Layout::rows : a.distribution.layout;
  const svd::InLayout by(given, layout, comm, threads);
  const svd::Input input{a.shape, {.layout = layout}, by.local()};
  return svd::relative(
      svd::residual_squared(input, factors.u, factors.singular_values, factors.v, comm, std::max(1, threads)),
      factors.norm * factors.norm);
}

std::unique_ptr<Factorizer> make_factorizer(Communicator& comm, SvdOptions options, Calibration calibration,
                                            GpuTransport gpus) {
  return std::make_unique<svd::SvdFactorizer>(comm, std::move(options), std::move(calibration),
                                              std::move(gpus));
}

}  // namespace lamina

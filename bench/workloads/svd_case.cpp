#include "bench/workloads/svd_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "bench/sampler.hpp"
#include "distributed/peak_memory.hpp"

namespace lamina {
namespace {

constexpr int kProbes = 4;

}  // namespace

double orthogonality(const Matrix<float>& part, const std::vector<double>& sigma, Communicator& comm) {
  const auto cols = static_cast<size_t>(part.cols);
  std::vector<double> sums(kProbes * cols);
  std::vector<double> signs(sums.size());
  uint64_t state = 1;
  for (size_t i = 0; i < signs.size(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    signs[i] = sigma[i % cols] == 0 ? 0 : (state >> 63) != 0 ? 1 : -1;
  }
  for (int64_t row = 0; row < part.rows; ++row) {
    const float* q = part.row(row);
    for (size_t probe = 0; probe < kProbes; ++probe) {
      const double* z = signs.data() + probe * cols;
      double* sum = sums.data() + probe * cols;
      double product = 0;
      for (size_t j = 0; j < cols; ++j) product += q[j] * z[j];
      for (size_t j = 0; j < cols; ++j) sum[j] += q[j] * product;
    }
  }
  comm.all_reduce(sums.data(), sums.data(), static_cast<int64_t>(sums.size()), DType::f64, ReduceOp::sum);
  double worst = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const double off = std::abs(sums[i] - signs[i]);
    if (!(off <= worst)) worst = off;  // NaN stays
    if (std::isnan(worst)) break;
  }
  return worst;
}

double orthogonality_limit(Shape shape) {
  return 30 * 0x1p-23 * static_cast<double>(std::max(shape.out_features, shape.in_features));
}

SvdCase::SvdCase(const SvdTask& task, WeightStore& store, Communicator& comm)
    : task_(task), store_(store), comm_(comm), matrix_(store.spread(task.ref, task.distribution, comm)) {
  if (task_.options.device != "cpu" && comm.size() > 1)
    task_.options.transport = &store.transport(task_.communicator, task_.options.device, comm);
}

void SvdCase::step(Part /*part*/) {
  phases_.push_back(factorize(*matrix_, task_.rule, task_.options, comm_).phases);
}

double SvdCase::optimal_error(const SvdResult& result) {
  const auto rank = static_cast<int64_t>(result.singular_values.size());
  double& known = store_.optimal_error(task_.ref, rank, comm_);
  // Of singular values in float32 it is no better than these: one of float64 stays.
  const bool coarse = result.computed_by == "lapack" || result.computed_by == "scalapack";
  if (!std::isnan(result.optimal_error) && (std::isnan(known) || !coarse)) known = result.optimal_error;
  if (std::isnan(known) && task_.seek_optimum && rank > 0) {
    SvdOptions options = task_.options;
    options.method = "gram";
    if (options.device == "cpu") options.eigensolver = "lapack";  // which makes all singular values
    RankRule rule;
    rule.rank = rank;
    known = factorize(*matrix_, rule, options, comm_).optimal_error;
  }
  return known;
}

CheckResult SvdCase::check() {
  const PeakMemory peak;
  const SvdResult result = factorize(*matrix_, task_.rule, task_.options, comm_);
  const auto shard = static_cast<int64_t>(matrix_->local.data.size() * sizeof(float));
  peak_bytes_ = static_cast<int64_t>(comm_.max(static_cast<double>(shard + peak.bytes())));
  rank_ = static_cast<int64_t>(result.singular_values.size());
  bound_ = result.error_bound;
  error_ = residual(*matrix_, result, comm_, task_.options.threads);
  orthogonality_ = orthogonality(result.u, result.singular_values, comm_);
  const double of_v = orthogonality(result.v, result.singular_values, comm_);
  if (!(of_v <= orthogonality_)) orthogonality_ = of_v;
  optimal_ = optimal_error(result);
  warnings_ = svd_warnings(result, task_.options.method, task_.rule, bound_);
  solved_by_ = result.solved_by;
  return {error_ <= bound_ && orthogonality_ <= orthogonality_limit(matrix_->shape), error_, bound_, ""};
}

std::string SvdCase::failure(const CheckResult& check) const {
  if (check.error <= check.tolerance)
    return fmt::format(
        "the factors' columns are not orthonormal: off by {:.3g}, past the {:.3g} of float32's rounding",
        orthogonality_, orthogonality_limit(matrix_->shape));
  return fmt::format("the factors are wrong: their error is {:.6g}, past the {:.6g} that {} promises",
                     check.error, check.tolerance, task_.options.method);
}

void SvdCase::describe(Record& record) {
  if (task_.options.transport != nullptr) record.set("communicator", task_.options.transport->name());
  record.set("svd_rank", rank_);
  if (!solved_by_.empty()) record.set("svd_solved_by", solved_by_);
  record.set("svd_error", error_);
  record.set("svd_error_bound", bound_);
  record.set("svd_optimal_error", optimal_);
  record.set("svd_orthogonality", orthogonality_);
  record.set("svd_peak_bytes", peak_bytes_);
}

std::vector<std::string> SvdCase::warnings() const {
  std::vector<std::string> said = warnings_;
  const Transport* used = task_.options.transport;
  if (used != nullptr && !used->passed_over.empty()) said.push_back(used->passed_over);
  return said;
}

void SvdCase::summarize(Record& record, const Series& /*series*/) {
  // Of each step, the rank that worked longest: what it spent on communication was the least waiting.
  const size_t steps = phases_.size(), ranks = static_cast<size_t>(comm_.size());
  const auto bytes = static_cast<int64_t>(steps * sizeof(SvdPhases));
  std::vector<SvdPhases> all(steps * ranks);
  comm_.all_gather(phases_.data(), all.data(), std::vector<int64_t>(ranks, bytes));
  const auto work = [](const SvdPhases& p) { return p.multiply_s + p.eigensolve_s + p.orthogonalize_s; };
  std::array<std::vector<double>, 4> seconds;
  for (size_t step = 0; step < steps; ++step) {
    SvdPhases slowest = all[step];
    for (size_t rank = 1; rank < ranks; ++rank)
      if (work(all[rank * steps + step]) > work(slowest)) slowest = all[rank * steps + step];
    seconds[0].push_back(slowest.multiply_s);
    seconds[1].push_back(slowest.communicate_s);
    seconds[2].push_back(slowest.eigensolve_s);
    seconds[3].push_back(slowest.orthogonalize_s);
  }
  record.set("svd_multiply_s", median(seconds[0]));
  record.set("svd_communicate_s", median(seconds[1]));
  record.set("svd_eigensolve_s", median(seconds[2]));
  record.set("svd_orthogonalize_s", median(seconds[3]));
}

}  // namespace lamina

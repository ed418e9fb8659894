#include "bench/workloads/svd_estimate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

constexpr double kNominalFlops = 30e9;  // of a core, for estimates only
constexpr double kMostForOptimumS =
    120;  // a factorisation only to learn the least error must not take longer

// Of GPUs: products over all of them, beside the copy to them; eigenvectors on one. From H200s.
double gpu_seconds_of(const std::string& method, double m, double n, double rank, const SvdOptions& options,
                      double ranks) {
  constexpr double kRate = 15e12, kCopy = 5e9, kSolve = 3e12;
  const double copy = 4 * m * n / ranks / kCopy;
  if (method == "gram") return copy + (m * n * n + 2 * m * n * rank) / ranks / kRate + 9 * n * n * n / kSolve;
  const double l = std::min(rank + static_cast<double>(options.oversampling), n);
  return copy + 2 * m * n * l * (2 + 2 * options.power_iterations) / ranks / kRate + 9 * l * l * l / kSolve;
}

// Operations at kNominalFlops: counted for what runs at BLAS-3's speed, and times what it is slower for what
// does not. The constants are from 2048 × 7168 on two cores.
double seconds_of(const std::string& method, Shape shape, double rank, const SvdOptions& options,
                  double ranks) {
  const auto n = static_cast<double>(std::min(shape.out_features, shape.in_features));
  const auto m = static_cast<double>(std::max(shape.out_features, shape.in_features));
  if (options.device == "cuda") return gpu_seconds_of(method, m, n, rank, options, ranks);
  const double cores = ranks * options.threads;
  double parallel = 0, serial = 0;
  if (method == "gram") {
    parallel = m * n * n + 2 * m * n * rank;
    serial = 4 * n * n * n / options.threads;
    if (svd::gram_by_filters(static_cast<int64_t>(rank), shape, options)) {
      parallel += 30 * n * n * rank + 60 * n * rank * rank;
      serial = 20 * rank * rank * rank;
    }
  } else if (method == "randomized") {
    const double sketch = std::min(rank + static_cast<double>(options.oversampling), n);
    parallel = 2 * m * n * sketch * (2 + 2 * options.power_iterations) + 12 * (m + n) * sketch * sketch;
  } else if (method == "lapack") {
    parallel = 6 * m * n * n + 20 * n * n * n;
  } else {
    parallel = 20 * (6 * m * n * n + 20 * n * n * n);  // the QR iteration rotates vectors, far below peak
  }
  return (parallel / cores + serial) / kNominalFlops;
}

}  // namespace

int64_t most_rank(const RankRule& rule, Shape shape, const SvdMethod& method) {
  const int64_t small = std::min(shape.out_features, shape.in_features);
  // Singular values fall, so r of s leave at most the share 1 − r/s of ‖A‖². Libraries in float32 bound what
  // they leave to a rounding of the longer side's length.
  const double asked = rule.error > 0 ? rule.error : std::sqrt(1 - rule.energy);
  const double rounding = static_cast<double>(std::max(shape.out_features, shape.in_features)) * 0x1p-24;
  const double error = std::max(0.0, asked - rounding);
  auto most = static_cast<int64_t>(std::ceil(static_cast<double>(small) * (1 - error * error))) + 1;
  // A sketch grows by halves. And gram knows no rank beforehand, so it does not go by filters.
  if (method.name == "randomized") most += std::max<int64_t>(64, most / 2);
  if (method.name == "gram") most = std::max(most, small / 8 + 1);
  return std::min(most, small);
}

bool is_scalapack(const SvdMethod& method) {
  return method.name.starts_with("scalapack");
}

std::string why_not_on_gpus(const SvdMethod& method, Shape shape, int64_t rank, int ranks,
                            const SvdOptions& options, const std::string& communicator) {
  if (const std::string absent = gpu_svd_absent(); !absent.empty()) return "cuda: " + absent;
  if (ranks > 1) {
    const TransportType* type = find_transport(communicator, "cuda");
    if (type == nullptr)
      return "cuda: no communicator for GPUs' memory in this build; build with NCCL, or take 1 rank";
    if (!type->absent.empty()) return fmt::format("communicator {}: {}", type->name, type->absent);
  }
  const Device* device = find_device("cuda");
  return device == nullptr
             ? ""
             : too_little_gpu_memory(method.gpu_bytes(shape, rank, ranks, options), device->free_bytes());
}

void estimate_svd(CaseSpec& spec, SvdTask& task, const SvdMethod& method, int64_t rank,
                  const LaunchInfo& launch) {
  const Shape shape = task.ref.shape;
  const auto part_bytes = [&](const Distribution& distribution) {
    const Shape part = local_shape(shape, distribution, spec.ranks, 0);  // no other has more
    return 4 * part.out_features * part.in_features;
  };
  // A case whose grid does not fit is skipped: its parts are of no size.
  const Distribution& lies = task.distribution;
  const bool fits =
      lies.layout != Layout::block_cyclic || int64_t{lies.grid_rows} * lies.grid_cols == spec.ranks;
  const int64_t part = fits ? part_bytes(lies) : 0, rows = part_bytes({});
  const bool on_gpus = task.options.device == "cuda";
  if (on_gpus) task.gpu_bytes = method.gpu_bytes(shape, rank, spec.ranks, task.options);
  const int64_t method_bytes = method.memory_bytes(shape, lies.layout, rank, spec.ranks, task.options);
  const double step_s = seconds_of(method.name, shape, static_cast<double>(rank), task.options, spec.ranks);
  SvdOptions whole = task.options;
  if (!on_gpus) whole.eigensolver = "lapack";
  const double gram_s = seconds_of("gram", shape, static_cast<double>(rank), whole, spec.ranks);
  task.seek_optimum = gram_s <= kMostForOptimumS;
  // By what all ranks know: it is a factorisation by all of them.
  if (on_gpus)
    task.seek_optimum =
        task.seek_optimum &&
        find_svd_method("gram")->gpu_bytes(shape, rank, spec.ranks, task.options) <= launch.gpu_free_bytes;

  spec.shared_bytes = part;
  spec.stated_bytes = part + method_bytes;
  spec.passing_bytes = method_bytes;
  // Where the matrix lies otherwise than it was read: sent, received and stacked.
  if (task.distribution.layout != Layout::rows) spec.passing_bytes = std::max(spec.passing_bytes, 3 * rows);
  // The recomputed error: U and V with what they are multiplied from, and V whole.
  const int64_t sides = shape.out_features + shape.in_features;
  spec.passing_bytes = std::max(spec.passing_bytes, 4 * rank * (2 * sides / spec.ranks + sides));
  // A check that must find the least error by a factorisation of its own.
  const bool few = !on_gpus && method.name == "gram" && svd::gram_by_filters(rank, shape, task.options);
  const bool seeks = task.seek_optimum && (method.name == "randomized" || few);
  // Filters that give up leave it to an eigensolver of the whole, as that factorisation does.
  if (seeks || few) {
    spec.passing_bytes = std::max(spec.passing_bytes, find_svd_method("gram")->memory_bytes(
                                                          shape, lies.layout, rank, spec.ranks, whole) +
                                                          4 * rank * sides / spec.ranks);
  }
  spec.estimated_step_s = step_s;
  // The check is a factorisation of its own.
  spec.estimated_compress_s = step_s + 1e-9 * static_cast<double>(part) * static_cast<double>(rank) / 8;
  if (seeks) spec.estimated_compress_s += gram_s;
}

}  // namespace lamina

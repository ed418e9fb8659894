#include "bench/workloads/svd.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/workloads/one_layer.hpp"
#include "bench/workloads/placement.hpp"
#include "bench/workloads/svd_case.hpp"
#include "bench/workloads/svd_estimate.hpp"
#include "distributed/scalapack.hpp"

namespace lamina {
namespace {

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const SvdMethod& method : svd_methods()) names.push_back(method.name);
  return names;
}

const KeySpec kRank{"rank", "singular values kept; up to min(in_features, out_features)", nullptr, 1, 1e9, {},
                    true};
const KeySpec kRatio{
    "ratio", "share of the dense parameters that U and V may take together", nullptr, 1e-6, 1, {}, true};
const KeySpec kEnergy{"energy", "share of ‖A‖² to keep at least", nullptr, 1e-6, 0.999999, {}, true};
const KeySpec kError{"error", "relative Frobenius error to stay under", nullptr, 1e-6, 1, {}, true};
const KeySpec kEigensolver{"eigensolver",
                           "gram: who solves for the eigenvectors of the Gram matrix",
                           std::string("auto"),
                           0,
                           0,
                           {"auto", "lapack", "scalapack", "elpa"}};
const KeySpec kOversampling{"oversampling", "randomized: columns of the sketch beyond the rank", int64_t{16},
                            0, 4096};
const KeySpec kPowerIterations{"power_iterations", "randomized: products with A·Aᵀ that sharpen the sketch",
                               int64_t{2}, 0, 16};
const KeySpec kGridRows{
    "grid_rows", "rows of the grid of ranks, of scalapack and of block-cyclic (default: the squarest)",
    nullptr,     1,
    1 << 20,     {},
    true};
const KeySpec kGridCols{"grid_cols", "and its columns", nullptr, 1, 1 << 20, {}, true};
const KeySpec kBlock{"block", "side of the square blocks of scalapack and of block-cyclic", int64_t{64}, 1,
                     4096};
const KeySpec kLayout{"layout",
                      "how the matrix lies over ranks before it is factorised",
                      std::string("rows"),
                      0,
                      0,
                      {"rows", "columns", "block-cyclic"}};
const KeySpec kScaling{"scaling",
                       "strong: the same matrix on any number of ranks; weak: out_features times the ranks",
                       std::string("strong"),
                       0,
                       0,
                       {"strong", "weak"}};

const KeySpec& method_key() {
  static const KeySpec key{"method", "who factorises", std::string("gram"), 0, 0, method_names()};
  return key;
}

class SvdSpec : public CaseSpec {
 public:
  std::unique_ptr<PreparedCase> prepare(WeightStore& store, const Registry& /*registry*/,
                                        Communicator& comm) const override {
    return std::make_unique<SvdCase>(task, store, comm);
  }
  SvdTask task;
};

// Exactly one of rank, ratio, energy and error; false after a problem. `rank`: what comes out at most.
bool read_rule(const Params& params, Shape shape, RankRule& rule, int64_t& rank) {
  const size_t before = params.problems()->items().size();
  int given = 0;
  for (const KeySpec* key : {&kRank, &kRatio, &kEnergy, &kError}) given += params.has(key->name) ? 1 : 0;
  if (params.has(kRank.name)) rule.rank = params.integer(kRank);
  if (params.has(kRatio.name)) rule.ratio = params.number(kRatio);
  if (params.has(kEnergy.name)) rule.energy = params.number(kEnergy);
  if (params.has(kError.name)) rule.error = params.number(kError);
  if (given != 1)
    params.problem("", fmt::format("expected exactly one of rank, ratio, energy and error, found {}",
                                   given == 0 ? "none" : std::to_string(given)));
  if (params.problems()->items().size() != before) return false;
  const int64_t largest = std::min(shape.out_features, shape.in_features);
  rank = rule.rank > 0 ? rule.rank : largest;
  if (rank > largest)
    params.problem(kRank.name, fmt::format("expected at most min(out_features, in_features) = {}, found {}",
                                           largest, rank));
  if (rule.ratio > 0) {
    const auto n = static_cast<double>(shape.out_features), k = static_cast<double>(shape.in_features);
    rank = std::min(static_cast<int64_t>(std::floor(rule.ratio * n * k / (n + k))), largest);
    if (rank < 1)
      params.problem(kRatio.name,
                     fmt::format("expected at least {:.3g} (rank 1 of {} × {}), found {:.6g}",
                                 (n + k) / (n * k), shape.out_features, shape.in_features, rule.ratio));
  }
  return params.problems()->items().size() == before;
}

std::string short_name(const RankRule& rule) {
  return rule.rank > 0     ? fmt::format("r{}", rule.rank)
         : rule.ratio > 0  ? fmt::format("p{:.6g}", rule.ratio)
         : rule.energy > 0 ? fmt::format("n{:.6g}", rule.energy)
                           : fmt::format("e{:.6g}", rule.error);
}

std::string long_name(const RankRule& rule) {
  return rule.rank > 0     ? fmt::format("rank {}", rule.rank)
         : rule.ratio > 0  ? fmt::format("ratio {:.6g}", rule.ratio)
         : rule.energy > 0 ? fmt::format("energy {:.6g}", rule.energy)
                           : fmt::format("error {:.6g}", rule.error);
}

// The grid as given, or the squarest of all ranks, no taller than wide.
void read_grid(const Params& params, int ranks, int& rows, int& cols) {
  if (params.has(kGridRows.name) != params.has(kGridCols.name)) {
    const std::string given = params.has(kGridRows.name) ? kGridRows.name : kGridCols.name;
    params.problem(given, "expected both grid_rows and grid_cols, found one");
  }
  if (params.has(kGridRows.name)) rows = static_cast<int>(params.integer(kGridRows));
  if (params.has(kGridCols.name)) cols = static_cast<int>(params.integer(kGridCols));
  if (params.has(kGridRows.name)) return;
  rows = static_cast<int>(std::sqrt(ranks));
  while (ranks % rows != 0) --rows;
  cols = ranks / rows;
}

// What the method was told, where that is not its default: "randomized-s32-q1".
std::string method_name(const SvdOptions& options, const SvdMethod& method, bool grid_given) {
  std::string text = options.method + (options.device == "cuda" ? "-cuda" : "");
  if (options.method == "gram" && options.eigensolver != "auto") text += "-" + options.eigensolver;
  if (options.method == "randomized") {
    if (options.oversampling != std::get<int64_t>(kOversampling.fallback))
      text += fmt::format("-s{}", options.oversampling);
    if (options.power_iterations != std::get<int64_t>(kPowerIterations.fallback))
      text += fmt::format("-q{}", options.power_iterations);
  }
  if (is_scalapack(method)) {
    if (grid_given) text += fmt::format("-{}x{}", options.grid_rows, options.grid_cols);
    if (options.block != std::get<int64_t>(kBlock.fallback)) text += fmt::format("-b{}", options.block);
  }
  return text;
}

std::string why_skipped(const SvdSpec& spec, const SvdMethod& method, const LaunchInfo& launch,
                        int64_t rank) {
  const SvdTask& task = spec.task;
  const bool cyclic = task.distribution.layout == Layout::block_cyclic;
  if (spec.ranks > launch.ranks)
    return fmt::format("needs {} ranks, launched with {}: mpirun -n {}", spec.ranks, launch.ranks,
                       spec.ranks);
  if (!method.absent.empty()) return fmt::format("method {}: {}", method.name, method.absent);
  if (cyclic && !svd::scalapack_absent().empty()) return "layout block-cyclic: " + svd::scalapack_absent();
  if (method.name == "gram" && task.options.eigensolver == "scalapack" && !svd::scalapack_absent().empty())
    return "eigensolver scalapack: " + svd::scalapack_absent();
  if (method.name == "gram" && task.options.eigensolver == "elpa" && !svd::elpa_absent().empty())
    return "eigensolver elpa: " + svd::elpa_absent();
  if ((cyclic || is_scalapack(method)) &&
      int64_t{task.options.grid_rows} * task.options.grid_cols != spec.ranks)
    return fmt::format("needs {} × {} ranks, found {}", task.options.grid_rows, task.options.grid_cols,
                       spec.ranks);
  if (task.options.device == "cuda")
    return why_not_on_gpus(method, task.ref.shape, rank, spec.ranks, task.options, task.communicator);
  return "";
}

void fill_identity(SvdSpec& spec, const OneLayer& one, const SvdMethod& method, const std::string& layout,
                   const std::string& scaling) {
  const SvdOptions& options = spec.task.options;
  Record& id = spec.identity;
  id = Record("svd");
  id.set("workload", std::string("svd"));
  if (!one.model.empty()) id.set("model", one.model);
  id.set("layer", one.layer.name);
  id.set("in_features", spec.task.ref.shape.in_features);
  id.set("out_features", spec.task.ref.shape.out_features);
  id.set("weights_source", one.ref.weights.empty() ? "synthetic" : one.ref.weights);
  if (one.ref.weights.empty()) id.set("spectrum_decay", one.ref.synthetic.spectrum_decay);
  id.set("device", options.device);
  // Of `auto` what is likely; the case itself knows.
  const bool on_gpus = options.device == "cuda";
  const TransportType* likely = on_gpus ? find_transport(spec.task.communicator, options.device) : nullptr;
  id.set("communicator", spec.ranks == 1 ? std::string("self") : likely != nullptr ? likely->name : "mpi");
  id.set("ranks", int64_t{spec.ranks});
  id.set("threads", int64_t{spec.threads});
  id.set("svd_method", options.method);
  id.set("svd_rule", long_name(spec.task.rule));
  id.set("svd_layout", layout);
  id.set("svd_scaling", scaling);
  if (options.method == "gram") id.set("svd_eigensolver", options.eigensolver);
  if (options.method == "randomized") {
    id.set("svd_oversampling", options.oversampling);
    id.set("svd_power_iterations", options.power_iterations);
  }
  if (is_scalapack(method)) {
    id.set("svd_grid", fmt::format("{}x{}", options.grid_rows, options.grid_cols));
    id.set("svd_block", options.block);
  }
  id.set("svd_estimated_bytes", spec.stated_bytes);
  if (on_gpus) id.set("svd_estimated_gpu_bytes", spec.task.gpu_bytes);
}

std::unique_ptr<CaseSpec> read_svd(const Params& params, const LaunchInfo& launch,
                                   const Registry& /*registry*/) {
  const size_t before = params.problems()->items().size();
  auto spec = std::make_unique<SvdSpec>();
  SvdTask& task = spec->task;
  SvdOptions& options = task.options;
  options.method = params.string(method_key());
  options.eigensolver = params.string(kEigensolver);
  options.oversampling = params.integer(kOversampling);
  options.power_iterations = static_cast<int>(params.integer(kPowerIterations));
  options.block = params.integer(kBlock);
  options.seed = launch.seed;
  const std::string layout = params.string(kLayout), scaling = params.string(kScaling);
  const Placement movers = read_movers(params, launch);
  options.device = movers.device;
  task.communicator = movers.communicator;
  spec->ranks = movers.ranks;
  const SvdMethod* method = find_svd_method(options.method);
  const bool alone = method != nullptr && method->one_rank;
  const int scale = scaling == "weak" && !alone ? std::max(spec->ranks, 1) : 1;
  if (alone) spec->ranks = 1;
  // A peer that knows no ranks has the node to itself: what its ranks have together.
  const int threads = alone ? launch.default_threads * launch.local_ranks : launch.default_threads;
  options.threads = spec->threads = params.has("threads") ? movers.threads : threads;
  const bool on_gpus = options.device == "cuda";
  if (on_gpus && method != nullptr && method->gpu_bytes == nullptr)
    params.problem("method",
                   fmt::format("expected gram or randomized on device cuda, found \"{}\"", options.method));
  if (on_gpus && params.has("eigensolver") && options.eigensolver != "auto")
    params.problem("eigensolver",
                   fmt::format("expected auto on device cuda, found \"{}\"", options.eigensolver));
  if (!on_gpus && task.communicator != "auto")
    params.problem("communicator",
                   fmt::format("expected auto on device cpu, where factorisations use MPI, found \"{}\"",
                               task.communicator));
  std::optional<OneLayer> one = read_one_layer(params, launch);
  if (scaling == "weak" && params.has("weights"))
    params.problem("scaling",
                   "expected strong for weights of a file, which are as many as they are; found weak");
  read_grid(params, std::max(spec->ranks, 1), options.grid_rows, options.grid_cols);
  if (!one || method == nullptr) {
    for (const KeySpec* key : {&kRank, &kRatio, &kEnergy, &kError}) params.mark_read(key->name);
    return nullptr;
  }
  task.ref = one->ref;
  task.ref.shape.out_features *= scale;
  const Shape shape = task.ref.shape;
  int64_t rank = 0;
  // The rule holds for the matrix on one rank already, so that a sweep of ranks means one thing.
  if (!read_rule(params, one->layer.shape, task.rule, rank) || params.problems()->items().size() != before)
    return nullptr;
  if (task.rule.ratio > 0) rank = std::min({rank * scale, shape.out_features, shape.in_features});
  if (task.rule.energy > 0 || task.rule.error > 0) rank = most_rank(task.rule, shape, *method);
  task.distribution.layout = layout == "rows"      ? Layout::rows
                             : layout == "columns" ? Layout::columns
                                                   : Layout::block_cyclic;
  if (task.distribution.layout == Layout::block_cyclic) {
    task.distribution.grid_rows = options.grid_rows;
    task.distribution.grid_cols = options.grid_cols;
    task.distribution.block = options.block;
  }
  spec->pointer = params.pointer();
  spec->forward = false;
  spec->skip_reason = why_skipped(*spec, *method, launch, rank);

  const std::string decay = one->ref.weights.empty() && params.has("spectrum_decay")
                                ? fmt::format("-d{:g}", one->ref.synthetic.spectrum_decay)
                                : "";
  const std::string index =
      params.has("layer_index") ? fmt::format("-i{}", params.integer(source_keys()[1])) : "";
  const std::string mover =
      spec->ranks > 1 && task.communicator != "auto" ? "-" + task.communicator : std::string();
  spec->name = fmt::format("svd/{}{}{}/{}/{}/{}/{}/p{}t{}{}", one->model.empty() ? "" : one->model + "/",
                           one->layer.name, decay + index, short_name(task.rule),
                           method_name(options, *method, params.has(kGridRows.name)), layout, scaling,
                           spec->ranks, spec->threads, mover);
  spec->weights_group =
      fmt::format("{}p{} {} {}x{} {}", task.ref.key(), spec->ranks, layout, task.distribution.grid_rows,
                  task.distribution.grid_cols, task.distribution.block);
  spec->packed_group = fmt::format("svd {} t{}", spec->weights_group, spec->threads);
  spec->group = spec->packed_group;
  estimate_svd(*spec, task, *method, rank, launch);
  fill_identity(*spec, *one, *method, layout, scaling);
  spec->identity.set("case", spec->name);
  return spec;
}

}  // namespace

WorkloadType svd_workload() {
  WorkloadType type;
  type.name = "svd";
  type.help =
      "factorising a matrix that is spread over ranks: A ≈ U·Σ·Vᵀ by one of rank, ratio, energy and error";
  type.keys = one_layer_keys();
  type.keys.insert(type.keys.end(),
                   {kRank, kRatio, kEnergy, kError, method_key(), kEigensolver, kOversampling,
                    kPowerIterations, kGridRows, kGridCols, kBlock, kLayout, kScaling});
  type.keys.insert(type.keys.end(), source_keys().begin(), source_keys().end());
  type.keys.insert(type.keys.end(), mover_keys().begin(), mover_keys().end());
  type.read = read_svd;
  return type;
}

}  // namespace lamina

#include "bench/workloads/placement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/ceilings.hpp"
#include "bench/workloads/svd_estimate.hpp"
#include "distributed/compress.hpp"
#include "distributed/svd.hpp"
#include "kernels/gpu_rules.hpp"
#include "kernels/weights/synthetic.hpp"

namespace lamina {
namespace {

constexpr double kNominalBandwidth = 10e9;  // bytes/s of a rank: for estimates only
constexpr double kNominalFlops = 30e9;
constexpr int kMaxCopies = 4096;

const KeySpec kDevice{"device", "where layers run", std::string("cpu"), 0, 0, {"cpu", "cuda"}};
const KeySpec kKernel{"kernel", "who computes; auto takes the preferred one for the scheme and device",
                      std::string("auto")};
const KeySpec kRanks{"ranks", "ranks of the launch that take part (default: all)", nullptr, 1, 1 << 20, {},
                     true};
const KeySpec kThreads{
    "threads", "OpenMP threads a rank (default: the node's cores over its ranks)", nullptr, 1, 4096, {},
    true};
const KeySpec kCommunicator{
    "communicator", "who moves data between ranks; auto takes the fastest that there is for the device",
    std::string("auto")};
const KeySpec kCache{
    "cache", "cold: rotate copies of the weights past the caches; hot: one copy (default: measure's)",
    nullptr, 0,
    0,       {"cold", "hot"},
    true};
const KeySpec kModel{
    "model", "a shipped model's name, or the path of a Hugging Face config.json", nullptr, 0, 0, {}, true};
const KeySpec kLayerIndex{"layer_index", "which decoder layer's tensors to read", int64_t{0}, 0, 100000};
const KeySpec kWeights{
    "weights", "a .safetensors file, its index or folder (default: synthetic weights)", nullptr, 0, 0, {},
    true};

// About what a factorisation takes, its residual included.
double factorise_s(Shape shape, int64_t rank, const std::string& method, double ranks) {
  const auto small = static_cast<double>(std::min(shape.out_features, shape.in_features));
  const double elements = static_cast<double>(shape.out_features) * static_cast<double>(shape.in_features);
  const auto columns = static_cast<double>(rank);
  // Two power iterations: six products with a sketch somewhat wider than the rank.
  if (method == "randomized") return 12 * elements * (columns + 16) / ranks / kNominalFlops;
  // The Gram matrix and two products over ranks; a tridiagonal form on one, half of it at memory's speed.
  return elements * (small + 4 * columns) / ranks / kNominalFlops +
         8.0 / 3 * small * small * small / kNominalFlops;
}

// About what a scheme takes to look at calibration tokens: their statistics, or their Gram, its Cholesky
// factor and the compensation by it.
double calibrate_s(Shape shape, const Scheme& scheme, double ranks) {
  const auto n = static_cast<double>(shape.out_features), k = static_cast<double>(shape.in_features);
  const auto tokens = static_cast<double>(scheme.calibration_tokens());
  const double gram = scheme.takes_gram() ? (tokens + n) * k * k + k * k * k / 3 : 0;
  return tokens * k * 50e-9 + 2 * gram / ranks / kNominalFlops + (tokens > 0 ? n * k * 100e-9 / ranks : 0);
}

}  // namespace

const std::vector<KeySpec>& placement_keys() {
  static const std::vector<KeySpec> keys = {kDevice, kKernel, kRanks, kThreads, kCommunicator, kCache};
  return keys;
}

const std::vector<KeySpec>& mover_keys() {
  static const std::vector<KeySpec> keys = {kDevice, kRanks, kThreads, kCommunicator};
  return keys;
}

const std::vector<KeySpec>& source_keys() {
  static const std::vector<KeySpec> keys = [] {
    std::vector<KeySpec> all = {kModel, kLayerIndex, kWeights};
    all.insert(all.end(), synthetic_keys().begin(), synthetic_keys().end());
    return all;
  }();
  return keys;
}

const KeySpec& ranks_key() {
  return kRanks;
}

const KeySpec& threads_key() {
  return kThreads;
}

const KeySpec& tokens_key() {
  static const KeySpec key{"tokens", "tokens a forward, M", nullptr, 1, 1 << 20};
  return key;
}

const KeySpec& scheme_key() {
  static const KeySpec key{
      "scheme", "how the weights are stored: an object with \"type\" and that scheme's keys", nullptr};
  return key;
}

Placement read_movers(const Params& params, const LaunchInfo& launch) {
  Placement placement;
  placement.device = params.string(kDevice);
  placement.communicator = params.string(kCommunicator);
  placement.ranks = params.has("ranks") ? static_cast<int>(params.integer(kRanks)) : launch.ranks;
  placement.threads =
      params.has("threads") ? static_cast<int>(params.integer(kThreads)) : launch.default_threads;
  check_communicator(params, placement.communicator, placement.device);
  return placement;
}

Placement read_placement(const Params& params, const LaunchInfo& launch, bool alone) {
  Placement placement = read_movers(params, launch);
  placement.kernel = params.string(kKernel);
  placement.cache = params.has("cache") ? params.string(kCache) : launch.default_cache;
  if (alone) placement.ranks = 1;
  placement.named_communicator = placement.ranks > 1 && placement.communicator != "auto";
  if (placement.ranks == 1) placement.communicator = "self";
  return placement;
}

void check_communicator(const Params& params, const std::string& name, const std::string& device) {
  if (name == "auto" || find_transport(name, device) != nullptr) return;
  std::vector<std::string> known = {"auto"};
  for (const TransportType& type : transports())
    if (type.device == device) known.push_back(type.name);
  const std::string near = nearest_name(name, known);
  params.problem("communicator",
                 fmt::format("expected one of {} for device {}, found \"{}\"{}", fmt::join(known, ", "),
                             device, name, near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
}

std::unique_ptr<Scheme> make_scheme(const Params& params, Shape shape, const Registry& registry) {
  static const KeySpec type_key{"type", "which scheme"};
  const size_t before = params.problems()->items().size();
  const std::string type = params.string(type_key);
  if (params.problems()->items().size() != before) return nullptr;
  const SchemeType* scheme = registry.find_scheme(type);
  if (scheme == nullptr) {
    std::vector<std::string> known;
    for (const SchemeType& candidate : registry.schemes()) known.push_back(candidate.type);
    const std::string near = nearest_name(type, known);
    params.problem("type", fmt::format("expected a scheme ({}), found \"{}\"{}", fmt::join(known, ", "), type,
                                       near.empty() ? "" : fmt::format("; did you mean \"{}\"?", near)));
    return nullptr;
  }
  std::unique_ptr<Scheme> made = scheme->make(params, shape, registry);
  std::vector<KeySpec> keys = scheme->keys;
  keys.push_back(type_key);
  params.report_unread(keys);
  return made;
}

std::unique_ptr<Scheme> read_scheme(const Params& params, Shape shape, const Registry& registry) {
  const std::shared_ptr<Params> object = params.object(scheme_key());
  return object ? make_scheme(*object, shape, registry) : nullptr;
}

LayerRef read_layer_ref(const Params& params, const std::string& label, const ModelLayer& layer,
                        const LaunchInfo& launch) {
  LayerRef ref;
  ref.label = label;
  ref.shape = layer.shape;
  ref.halves = layer.halves;
  ref.synthetic = read_synthetic(params);
  ref.seed = launch.seed;
  if (params.has("weights")) {
    ref.weights = params.string(kWeights);
    ref.tensors = layer.tensors;
  }
  return ref;
}

int64_t cold_bytes(const Placement& placement, const LaunchInfo& launch) {
  if (placement.cache != "cold") return 0;
  const Device* device = find_device(placement.device);
  if (device != nullptr && device->cache_bytes() > 0) return 3 * device->cache_bytes();
  return 4 * launch.cache_bytes / std::min(placement.ranks, launch.local_ranks);
}

int copies_for(int64_t cold_bytes, double packed_bytes) {
  const double copies = std::ceil(static_cast<double>(cold_bytes) / std::max(packed_bytes, 1.0));
  return static_cast<int>(std::clamp(copies, 1.0, static_cast<double>(kMaxCopies)));
}

namespace {

// As the kernel that the case names packs it. Which one `auto` takes is not known yet, but those pack as the
// scheme says.
int64_t packed_bytes(const Scheme::LeafBytes& leaf, const Placement& placement, const Registry& registry) {
  for (const Kernel* kernel : registry.kernels(placement.device))
    if (kernel->name == placement.kernel && kernel->packed_bytes) return kernel->packed_bytes(leaf);
  return leaf.packed;
}

// The file, with its tensors where no layer's name tells them (`unnamed`), or "synthetic" and those of the
// generator's knobs that the config turned.
std::string weights_source(const LayerRef& ref, bool unnamed) {
  if (!ref.weights.empty())
    return unnamed ? fmt::format("{} {}", ref.weights, fmt::join(ref.tensors, "+")) : ref.weights;
  const SyntheticOptions usual, &own = ref.synthetic;
  std::string text = "synthetic";
  const auto add = [&](const char* name, double value, double as_ever) {
    if (value != as_ever) text += fmt::format(" {}={:g}", name, value);
  };
  add("spectrum_decay", own.spectrum_decay, usual.spectrum_decay);
  add("correlation", own.correlation, usual.correlation);
  add("outlier_share", own.outlier_share, usual.outlier_share);
  add("outlier_gain", own.outlier_gain, usual.outlier_gain);
  return text;
}

}  // namespace

void fill_spec(CaseSpec& spec, const SpecParts& parts, const Placement& placement, const Params& params,
               const LaunchInfo& launch, const Registry& registry, int64_t tokens) {
  const Scheme& scheme = *parts.schemes.front();
  spec.pointer = params.pointer();
  spec.ranks = placement.ranks;
  spec.threads = placement.threads;
  spec.tokens = spec.max_tokens = tokens;
  // What compression competes with: on a GPU nobody runs float32.
  const bool on_gpu = placement.device == "cuda";
  spec.dense = scheme.name() == (on_gpu ? "dense-bf16" : "dense-f32");
  const bool bf16_sums = parts.sum_dtype == "bf16";
  spec.name = fmt::format(
      "{}/{}/m{}/{}/{}-{}/{}{}{}/p{}t{}{}/{}", parts.workload, parts.what, tokens, scheme.name(),
      placement.device, placement.kernel, parts.shard, bf16_sums ? "-bf16" : "",
      parts.overlap > 1 ? fmt::format("-o{}", parts.overlap) : "", placement.ranks, placement.threads,
      placement.named_communicator ? "-" + placement.communicator : "", placement.cache);
  if (placement.ranks > launch.ranks)
    spec.skip_reason = fmt::format("needs {} ranks, launched with {}: mpirun -n {}", placement.ranks,
                                   launch.ranks, placement.ranks);
  if (parts.overlap > 1 && placement.ranks > 1 && !on_gpu)
    spec.skip_reason = "overlap: needs a GPU, whose second stream sums while the first computes";
  if (parts.overlap > 1 && placement.ranks > 1 && parts.shard != "row" && parts.shard != "column-row")
    spec.skip_reason = fmt::format(
        "overlap {}: of sums that every rank gets whole, shard row or column-row; with shard {} take 1",
        parts.overlap, parts.shard);
  if (placement.named_communicator && spec.skip_reason.empty())
    if (const TransportType* type = find_transport(placement.communicator, placement.device);
        type != nullptr && !type->absent.empty())
      spec.skip_reason = fmt::format("communicator {}: {}", type->name, type->absent);

  std::string weights;
  for (const LayerRef& layer : parts.layers) weights += layer.key() + "; ";
  spec.weights_group = fmt::format("{}p{}", weights, placement.ranks);
  spec.packed_group = fmt::format("{} {} {} {} {} {} o{} t{} {} {}", parts.workload, spec.weights_group,
                                  parts.what, placement.device, parts.shard, parts.sum_dtype, parts.overlap,
                                  placement.threads, placement.cache, placement.communicator);
  spec.group = fmt::format("{} m{} q{}", spec.packed_group, tokens, parts.layers.front().quality_tokens);

  const int local_ranks = std::min(placement.ranks, launch.local_ranks);
  const int64_t ranks = placement.ranks, held = std::max(tokens, parts.layers.front().quality_tokens);
  int64_t packed = 0, part = 0, check = 0;
  double macs = 0, compress = 0;
  for (size_t i = 0; i < parts.layers.size(); ++i) {
    const Shape shape = parts.layers[i].shape;
    const auto [n, k] = shape;
    const double elements = static_cast<double>(k) * static_cast<double>(n);
    spec.dense_operations += 2.0 * elements * static_cast<double>(tokens);
    macs += parts.schemes[i]->estimated_macs(shape) / static_cast<double>(ranks);
    const int64_t rank = parts.schemes[i]->largest_rank();
    compress += elements / static_cast<double>(ranks) * 30e-9;
    compress += calibrate_s(shape, *parts.schemes[i], static_cast<double>(ranks));
    if (rank > 0)
      compress +=
          factorise_s(shape, rank, parts.schemes[i]->factor_request().method, static_cast<double>(ranks));

    // Rows are loaded and compressed in whole blocks: the largest rank's share of them.
    const int64_t blocks = (n + kRowBlock - 1) / kRowBlock, rows = (blocks + ranks - 1) / ranks * kRowBlock;
    const auto slab = [&](int64_t bytes) {
      return static_cast<int64_t>(static_cast<double>(bytes) *
                                  std::min(1.0, static_cast<double>(rows) / static_cast<double>(n)));
    };
    spec.shared_bytes += slab(4 * n * k);
    const auto leaves = parts.schemes[i]->estimated_leaves(shape);
    for (size_t leaf = 0; leaf < leaves.size(); ++leaf) {
      const auto& bytes = leaves[leaf];
      // Of factors, the last two leaves, V is whole on every rank; packed, the one that the shard does not
      // cut.
      const bool factor = leaves.size() > 1 && leaf + 2 >= leaves.size(),
                 is_v = factor && leaf + 1 == leaves.size();
      const bool cut_rows = parts.shard.starts_with("column") && i == 0;
      const int64_t sharers = factor && is_v == cut_rows ? 1 : ranks;
      spec.canonical_bytes += is_v ? bytes.canonical : slab(bytes.canonical);
      packed += packed_bytes(bytes, placement, registry) / sharers;
      spec.own_bytes += placement.threads * bytes.scratch_per_thread;
      spec.token_bytes += bytes.scratch_per_token / (cut_rows ? 1 : sharers);
      part = std::max(part, bytes.canonical / sharers);
    }
    // Inputs whole and local, outputs (of V, at most as wide, too, and of U in a sum).
    spec.own_bytes += 4 * held * (2 * k + static_cast<int64_t>(leaves.size()) * n);
    // What is summed where communication is timed alone, and products before they are rounded; of a chain
    // they are no wider than the rank.
    const bool reduces = ranks > 1 && (parts.shard == "row" || i > 0);
    if (reduces && leaves.size() != 2) spec.token_bytes += (bf16_sums ? 2 + 4 : 4) * n;
    // Inputs of all tokens, and sums before they are scattered.
    if (parts.shard == "sequence") spec.token_bytes += 4 * std::max(n, k);
    // The float32 factors are kept for schemes that share them.
    spec.canonical_bytes += 4 * (slab(n * rank) + rank * k);
    // Inputs and outputs once more, gathered ones, and a few tokens of both in float64.
    check += 4 * held * 4 * (k + n) + 8 * 9 * 4 * (k + n);
    spec.passing_bytes =
        std::max(spec.passing_bytes, parts.schemes[i]->estimated_compress_bytes(shape, ranks));
    const FactorRequest request = parts.schemes[i]->factor_request();
    if (const SvdMethod* svd = find_svd_method(request.method)) {
      const SvdOptions options{
          .threads = placement.threads, .same_for_any_ranks = true, .device = request.device};
      // What gram's filters leave it to, where they give up.
      SvdOptions whole = options;
      whole.eigensolver = "lapack";
      if (request.device == "cuda" && spec.skip_reason.empty())
        if (const std::string why =
                why_not_on_gpus(*svd, shape, rank, placement.ranks, options, kFactorTransport);
            !why.empty())
          spec.skip_reason = "factor_device " + why;
      // V is gathered once more before it is compressed.
      spec.passing_bytes = std::max(
          spec.passing_bytes,
          std::max(svd->memory_bytes(shape, Layout::rows, rank, static_cast<int>(ranks), options),
                   svd->memory_bytes(shape, Layout::rows, rank, static_cast<int>(ranks), whole)) +
              4 * rank * k + parts.schemes[i]->estimated_factor_bytes(shape, ranks) +
              whitening_bytes(shape, rank, static_cast<int>(ranks), request.whiten, options.threads) +
              // Where the processors factorise, they had more before.
              (request.device == "cuda" ? residual_bytes(rank, options.threads) : 0));
    }
  }
  // redistribute() holds three images of a part at once: what is sent or stacked, what was received, what was
  // read from it. The ceilings' buffers come when that is over.
  spec.passing_bytes =
      std::max({spec.passing_bytes, 3 * part, check, Ceilings::bytes(launch.cache_bytes, local_ranks)});
  const int copies = copies_for(cold_bytes(placement, launch), static_cast<double>(packed));
  if (on_gpu) {
    const TransportType* transport = find_transport(placement.communicator, placement.device);
    if (placement.ranks > 1 && spec.skip_reason.empty() &&
        (transport == nullptr || !transport->absent.empty()))
      spec.skip_reason = fmt::format(
          "cuda: {} ranks need a communicator for GPUs' memory, found none; build with NCCL, or take "
          "\"shard\": \"none\"",
          placement.ranks);
    // Beside the packed copies: canonical weights while they are packed, activations, outputs and sums.
    int64_t needed = copies * packed + part;
    for (const LayerRef& layer : parts.layers)
      needed += (16 * layer.shape.in_features + 12 * layer.shape.out_features) * tokens;
    const Device* device = find_device(placement.device);
    if (spec.skip_reason.empty() && device != nullptr)
      spec.skip_reason = too_little_gpu_memory(needed, device->free_bytes());
    spec.token_bytes = 0;
  } else {
    spec.own_bytes += copies * packed + spec.token_bytes * tokens;
  }
  spec.estimated_step_s = std::max(static_cast<double>(packed) / kNominalBandwidth,
                                   2 * macs * static_cast<double>(tokens) / kNominalFlops);
  spec.estimated_compress_s = compress;
  const auto compared = static_cast<double>(parts.layers.front().quality_tokens);
  spec.estimated_quality_s = std::ceil(compared / static_cast<double>(tokens)) * spec.estimated_step_s +
                             2 * macs * compared / kNominalFlops;
  spec.estimated_pack_s = static_cast<double>(packed) * copies * 1e-9;

  Record& id = spec.identity;
  id = Record(parts.workload);
  id.set("case", spec.name);
  id.set("workload", parts.workload);
  if (!parts.model.empty()) id.set("model", parts.model);
  id.set("layer", parts.layer_name);
  id.set("tokens", tokens);
  id.set("quality_tokens", parts.layers.front().quality_tokens);
  id.set("in_features", parts.in_features);
  id.set("out_features", parts.out_features);
  id.set("scheme", scheme.name());
  for (const auto& [key, value] : scheme.describe()) {
    RecordValue shown = nullptr;
    if (const auto* integer = std::get_if<int64_t>(&value)) shown = *integer;
    if (const auto* number = std::get_if<double>(&value)) shown = *number;
    if (const auto* flag = std::get_if<bool>(&value)) shown = *flag;
    if (const auto* text = std::get_if<std::string>(&value)) shown = *text;
    id.set("scheme_" + key, shown);
  }
  if (parts.layers.size() == 1 && scheme.largest_rank() > 0)
    id.set("break_even_rank",
           parts.in_features * parts.out_features / (parts.in_features + parts.out_features));
  id.set("weights_source", weights_source(parts.layers.front(), parts.model.empty()));
  id.set("device", placement.device);
  id.set("kernel", placement.kernel);
  id.set("shard", parts.shard);
  id.set("overlap", parts.overlap);
  if (!parts.sum_dtype.empty()) id.set("sum_dtype", parts.sum_dtype);
  // Of `auto` what is likely; describe_layers() knows.
  const TransportType* likely = find_transport(placement.communicator, placement.device);
  id.set("communicator", likely != nullptr && placement.ranks > 1 ? likely->name : std::string("self"));
  id.set("ranks", int64_t{placement.ranks});
  id.set("threads", int64_t{placement.threads});
  id.set("cache", placement.cache);
}

}  // namespace lamina

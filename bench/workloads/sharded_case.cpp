#include "bench/workloads/sharded_case.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "bench/workloads/placement.hpp"
#include "distributed/agree.hpp"
#include "distributed/check.hpp"

namespace lamina {

namespace {

// By which ways this rank's kernels multiplied so many tokens, in the order of the matrices.
std::string ways_of(const ShardedLayer& layer, int64_t tokens) {
  std::vector<std::string> ways;
  for (const Stage& stage : layer.stages()) {
    if (stage.copies.empty()) continue;
    std::string way = stage.copies.front()->way(layer.first_chunk(stage, tokens));
    if (way.empty()) way = stage.kernel->name;
    if (std::find(ways.begin(), ways.end(), way) == ways.end()) ways.push_back(std::move(way));
  }
  return fmt::format("{}", fmt::join(ways, ", "));
}

// What the layers share, or each one's in order: "native+openblas".
std::string joined(const std::vector<std::string>& texts) {
  const bool same =
      std::all_of(texts.begin(), texts.end(), [&](const auto& text) { return text == texts[0]; });
  return same ? texts[0] : fmt::format("{}", fmt::join(texts, "+"));
}

}  // namespace

void describe_layers(Record& record, const std::vector<PackedLayer*>& layers, int64_t tokens) {
  Communicator& comm = layers.front()->layer.comm();
  double weight_bytes = 0, dense16_bytes = 0, executed = 0;
  int64_t comm_bytes = 0;
  double seconds = 0;
  int64_t peak = 0, exchanged = 0;
  double error_squared = 0, norm_squared = 0;
  std::vector<std::string> warnings;
  std::vector<std::string> kernels, ran, isas, weight_dtypes, activation_dtypes, ranks;
  for (const PackedLayer* one : layers) {
    const CompressedWeights& weights = *one->weights;
    weight_bytes += static_cast<double>(one->layer.weight_bytes());
    executed += one->layer.cost(tokens).operations.total();
    comm_bytes += one->layer.comm_bytes(tokens);
    dense16_bytes += 2.0 * static_cast<double>(weights.shape.in_features) *
                     static_cast<double>(weights.shape.out_features);
    seconds += weights.seconds;
    peak = std::max(peak, weights.peak_bytes);
    exchanged += weights.comm_bytes;
    for (const std::string& warning : weights.warnings)
      if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(warning);
    error_squared += weights.error_squared;
    norm_squared += weights.norm_squared;
    kernels.push_back(one->layer.kernel_name());
    ran.push_back(ways_of(one->layer, tokens));
    isas.push_back(one->layer.isa());
    const std::vector<Leaf>& leaves = weights.canonical.leaves;
    const Leaf& leaf = leaves.front();
    weight_dtypes.push_back(leaf.bits == 32   ? "f32"
                            : leaf.fp16       ? "fp16"
                            : leaf.bits == 16 ? "bf16"
                            : leaf.fp8        ? "fp8-e4m3"
                            : leaf.bits == 8  ? "int8"
                                              : "int4");
    activation_dtypes.push_back(name_of(leaf.activation));
    if (weights.canonical.has_factors()) ranks.push_back(std::to_string(leaves.back().rows));
  }
  weight_bytes = comm.sum(weight_bytes);
  executed = comm.sum(executed);
  // Of `auto`, what came of it.
  for (const PackedLayer* one : layers)
    if (one->layer.transport() != nullptr) record.set("communicator", one->layer.transport()->name());
  record.set("weight_bytes", static_cast<int64_t>(weight_bytes));
  record.set("compression_ratio", dense16_bytes / weight_bytes);
  record.set("gflops_executed", executed);  // operations for now; the runner divides by the time
  record.set("comm_bytes", comm_bytes);
  record.set("warnings", warnings);
  record.set("compress_s", seconds);
  record.set("compress_peak_bytes", peak);
  record.set("compress_comm_bytes", exchanged);
  record.set("compress_error", std::sqrt(error_squared / norm_squared));
  const Promise promise = promise_of(layers);
  record.set("svd_error", promise.error);
  record.set("svd_error_bound", promise.bound);
  record.set("kernel", joined(kernels));
  record.set("kernel_ran", joined(ran));
  record.set("isa", joined(isas));
  record.set("weight_dtype", joined(weight_dtypes));
  record.set("activation_dtype", joined(activation_dtypes));
  // The rank that came out, where the config gave an error or a ratio.
  if (!ranks.empty()) {
    const std::string rank = joined(ranks);
    if (rank == ranks[0])
      record.set("scheme_rank", layers.front()->weights->canonical.leaves.back().rows);
    else
      record.set("scheme_rank", rank);
  }
}

Promise promise_of(const std::vector<PackedLayer*>& layers) {
  Promise promise;
  for (const PackedLayer* one : layers) promise.merge(one->weights->promise);
  return promise;
}

double all_reduced_bytes(const ShardedLayer& layer, int64_t tokens) {
  const bool by_tokens = layer.gathers() || layer.scatters();
  return static_cast<double>(layer.comm_bytes(tokens)) * (by_tokens ? 0.5 : 1.0);
}

bool replicate_cold(const std::vector<ShardedLayer*>& layers, int64_t cold_bytes) {
  Communicator& comm = layers.front()->comm();
  double bytes = 0;
  for (const ShardedLayer* layer : layers) bytes += static_cast<double>(layer->weight_bytes());
  bytes = comm.sum(bytes) / comm.size();
  const int copies = copies_for(cold_bytes, bytes);
  for (ShardedLayer* layer : layers) layer->replicate(copies);
  return cold_bytes > 0 && copies * bytes >= static_cast<double>(cold_bytes);
}

Buffer place_inputs(ShardedLayer& layer, const Matrix<float>& inputs, Range tokens) {
  Buffer x;
  together(layer.comm(), [&] {
    const Matrix<float> local = local_input(layer, inputs, tokens);
    x = place_activations(layer.device(), local.data.data(), local.rows * local.cols, layer.input_type());
  });
  return x;
}

Matrix<float> first_tokens(const Matrix<float>& inputs, int64_t tokens) {
  Matrix<float> first(tokens, inputs.cols);
  std::copy_n(inputs.data.begin(), first.data.size(), first.data.begin());
  return first;
}

Matrix<float> quality_outputs(ShardedLayer& first, ShardedLayer& last, const Matrix<float>& inputs,
                              int64_t wanted, int64_t tokens, const Buffer& y,
                              const std::function<void(const Buffer& x, int64_t count)>& forward) {
  Matrix<float> whole;
  for (int64_t t = 0; t < wanted; t += tokens) {
    const int64_t count = std::min(tokens, wanted - t);
    const Buffer x = place_inputs(first, inputs, {t, t + count});  // until the device is through
    forward(x, count);
    std::vector<float> local;
    together(last.comm(), [&] {
      local = fetch_activations(last.device(), y.data(), last.out_rows(count) * last.local_out(),
                                last.output_type());
    });
    const Matrix<float> part = gather_output(last, local.data(), count);
    if (t == 0) whole = Matrix<float>(wanted, part.cols);
    std::copy(part.data.begin(), part.data.end(), whole.row(t));
  }
  return whole;
}

const KeySpec& overlap_key() {
  static const KeySpec key{"overlap",
                           "chunks of tokens that a row shard sums on a second stream while the next is "
                           "computed; more than 1 on a GPU only",
                           int64_t{1}, 1, 64};
  return key;
}

const KeySpec& sum_dtype_key() {
  static const KeySpec key{"sum_dtype",
                           "what a row shard's sums over ranks are sent and added in, and its outputs are",
                           std::string("f32"),
                           0,
                           0,
                           {"f32", "bf16"}};
  return key;
}

}  // namespace lamina

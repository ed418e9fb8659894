#include "bench/weight_store.hpp"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

#include "distributed/check.hpp"

namespace lamina {

std::string LayerRef::key() const {
  return fmt::format("{} {}x{} seed {} {} [{}] {} {} {} {}", label, shape.out_features, shape.in_features,
                     seed, weights, fmt::join(tensors, "|"), synthetic.spectrum_decay, synthetic.correlation,
                     synthetic.outlier_share, synthetic.outlier_gain);
}

std::unique_ptr<WeightSource> LayerRef::open() const {
  if (weights.empty()) return make_synthetic_weights(shape, seed, label, synthetic);
  auto source = open_safetensors(weights, tensors);
  if (source->shape() != shape)
    throw std::runtime_error(
        fmt::format("{}: expected {} of shape [{}, {}], found [{}, {}]; name the tensors that make "
                    "this layer with \"tensor\"",
                    weights, fmt::join(tensors, " + "), shape.out_features, shape.in_features,
                    source->shape().out_features, source->shape().in_features));
  return source;
}

Matrix<float> LayerRef::activations(int64_t tokens) const {
  Matrix<float> x(tokens, shape.in_features);
  fill_activations(x, 0, ActivationPurpose::evaluation, seed, label, synthetic);
  return x;
}

OriginalWeights WeightStore::load(const LayerRef& layer, Communicator& comm) const {
  std::unique_ptr<WeightSource> source;
  std::string failure;
  try {
    source = layer.open();
  } catch (const std::exception& e) {
    failure = e.what();
  }
  comm.require(failure);
  return load_weights(*source, comm, threads_);
}

void LayerRef::calibration(int64_t first, Matrix<float>& out) const {
  fill_activations(out, first, ActivationPurpose::calibration, seed, label, synthetic);
}

std::shared_ptr<const OriginalWeights> WeightStore::original(const LayerRef& layer, Communicator& comm) {
  auto& slot = originals_[fmt::format("{} p{}", layer.key(), comm.size())];
  if (!slot) slot = std::make_shared<const OriginalWeights>(load(layer, comm));
  return slot;
}

std::shared_ptr<const SpreadMatrix> WeightStore::spread(const LayerRef& layer,
                                                        const Distribution& distribution,
                                                        Communicator& comm) {
  auto& slot = spread_[fmt::format("{} p{} {} {}x{} {}", layer.key(), comm.size(),
                                   static_cast<int>(distribution.layout), distribution.grid_rows,
                                   distribution.grid_cols, distribution.block)];
  if (!slot) {
    OriginalWeights weights = load(layer, comm);
    SpreadMatrix matrix{weights.shape, {}, std::move(weights.slab)};
    if (distribution.layout != Layout::rows) matrix = redistribute(matrix, distribution, comm, threads_);
    slot = std::make_shared<const SpreadMatrix>(std::move(matrix));
  }
  return slot;
}

Transport& WeightStore::transport(const std::string& name, const std::string& device, Communicator& comm,
                                  int64_t max_bytes) {
  if (device != "cpu") max_bytes = 0;  // a GPU's take any size
  auto& kept = transports_[fmt::format("{} {} p{}", name, device, comm.size())];
  if (kept.empty() || kept.back().max_bytes < max_bytes)
    kept.push_back({make_transport(name, device, comm, {.max_bytes = max_bytes}), max_bytes});
  return *kept.back().transport;
}

std::shared_ptr<Buffer> WeightStore::buffer(const std::string& purpose, int64_t bytes, Device& device) {
  auto& slot = buffers_[fmt::format("{} {} {}", purpose, bytes, static_cast<const void*>(&device))];
  if (!slot) slot = std::make_shared<Buffer>(device.allocate(bytes));
  return slot;
}

double& WeightStore::optimal_error(const LayerRef& layer, int64_t rank, const Communicator& comm) {
  const std::pair key(fmt::format("{} p{}", layer.key(), comm.size()), rank);
  return optimal_errors_.try_emplace(key, std::nan("")).first->second;
}

std::shared_ptr<const CompressedWeights> WeightStore::compressed(const LayerRef& layer, const Scheme& scheme,
                                                                 Communicator& comm) {
  const std::string matrix = fmt::format("{} p{}", layer.key(), comm.size());
  auto& slot = compressed_[matrix + " " + scheme.name()];
  if (!slot)
    slot = std::make_shared<const CompressedWeights>(
        compress(scheme, *original(layer, comm), comm, layer.seed, threads_, &factors_[matrix],
                 [&](int64_t first, Matrix<float>& out) { layer.calibration(first, out); }));
  return slot;
}

std::shared_ptr<PackedLayer> WeightStore::packed(const LayerRef& layer, const Scheme& scheme,
                                                 const ShardedOptions& options, const Registry& registry,
                                                 Communicator& comm) {
  std::string key = fmt::format("{} p{} {} {} {} {} m{} t{}", layer.key(), comm.size(), scheme.name(),
                                to_string(options.shard), options.kernel, options.device, options.max_tokens,
                                options.threads);
  if (options.sequence) key += " sequence";
  if (options.overlap > 1) key += fmt::format(" o{}", options.overlap);
  if (options.transport != nullptr) key += " " + options.transport->name();
  for (const auto* cut : {&options.row_cut, &options.column_cut})
    for (const Range& range : *cut) key += fmt::format(" {}", range.end);
  auto& slot = packed_[key];
  if (!slot) slot = std::make_shared<PackedLayer>(compressed(layer, scheme, comm), options, registry, comm);
  return slot;
}

std::shared_ptr<const Matrix<double>> WeightStore::product(const LayerRef& layer, const std::string& purpose,
                                                           const Matrix<float>& x, Communicator& comm) {
  auto& slot = products_[fmt::format("{} p{} {}", layer.key(), comm.size(), purpose)];
  if (!slot)
    slot =
        std::make_shared<const Matrix<double>>(original_product(*original(layer, comm), x, comm, threads_));
  return slot;
}

void WeightStore::clear() {
  clear_packed();
  factors_.clear();
  originals_.clear();
  compressed_.clear();
  products_.clear();
  spread_.clear();
  optimal_errors_.clear();
}

}  // namespace lamina

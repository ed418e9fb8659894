#include "bench/weight_store.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "bench/compressed_file.hpp"
#include "bench/gated_inputs.hpp"
#include "bench/node.hpp"
#include "distributed/agree.hpp"
#include "distributed/check.hpp"
#include "distributed/quality.hpp"
#include "kernels/digest.hpp"

namespace lamina {

std::string LayerRef::key() const {
  std::string key =
      fmt::format("{} {}x{} seed {} {} [{}] {} {} {} {}", label, shape.out_features, shape.in_features, seed,
                  weights, fmt::join(tensors, "|"), synthetic.spectrum_decay, synthetic.correlation,
                  synthetic.outlier_share, synthetic.outlier_gain);
  if (!inputs.empty()) key += fmt::format(" inputs {} {}", inputs, inputs_tensor);
  if (!cotangents.empty()) key += fmt::format(" cotangents {} {}", cotangents, cotangents_tensor);
  if (!compressed.empty()) key += " compressed " + compressed;
  if (behind != nullptr) key += " behind " + behind->key();
  return key;
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
  if (!inputs.empty()) {
    const auto file = open_safetensors(inputs, {inputs_tensor});
    const int64_t recorded = file->shape().out_features;
    if (tokens > recorded)
      throw std::runtime_error(
          fmt::format("{}: expected {} recorded tokens, found {}", inputs, tokens, recorded));
    for (int64_t t = 0; t < tokens; ++t) file->read_rows({recorded - 1 - t, recorded - t}, x.row(t), 1);
    return x;
  }
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
  if (inputs.empty())
    return fill_activations(out, first, ActivationPurpose::calibration, seed, label, synthetic);
  open_safetensors(inputs, {inputs_tensor})->read_rows({first, first + out.rows}, out.data.data(), 1);
}

void LayerRef::output_cotangents(int64_t first, Range features, Matrix<float>& out) const {
  if (cotangents.empty()) return fill_cotangents(out, first, features, seed, label);
  const auto file = open_safetensors(cotangents, {cotangents_tensor});
  std::vector<float> row(static_cast<size_t>(shape.out_features));
  for (int64_t t = 0; t < out.rows; ++t) {
    file->read_rows({first + t, first + t + 1}, row.data(), 1);
    std::copy(row.begin() + features.begin, row.begin() + features.end, out.row(t));
  }
}

namespace {

// A recorded tensor's tokens, once its columns are right and its numbers found finite.
int64_t recorded_tokens(const std::string& path, const std::string& tensor, int64_t columns,
                        const std::string& what) {
  static std::map<std::string, int64_t> known;
  const auto source = open_safetensors(path, {tensor});
  const auto [rows, cols] = source->shape();
  if (cols != columns)
    throw std::runtime_error(
        fmt::format("{}: expected {} of shape [tokens, {}] in tensor \"{}\", found [{}, {}]", path, what,
                    columns, tensor, rows, cols));
  const std::string key = path + " " + tensor;
  if (known.contains(key)) return rows;
  constexpr int64_t kRows = 256;
  Matrix<float> some(std::min(rows, kRows), cols);
  for (int64_t first = 0; first < rows; first += kRows)  // throws at what is not finite
    source->read_rows({first, std::min(rows, first + kRows)}, some.data.data(), 1);
  return known[key] = rows;
}

}  // namespace

std::string LayerRef::calibrated_by(int64_t tokens) const {
  if (tokens == 0) return "nothing";
  // Of files that check_recorded() has looked through.
  const auto recorded = [&](const std::string& path, const std::string& tensor, int64_t columns) {
    constexpr int64_t kRows = 256;
    const auto file = open_safetensors(path, {tensor});
    Matrix<float> some(std::min(tokens, kRows), columns);
    uint64_t digest = digest_of(nullptr, 0);
    for (int64_t first = 0; first < tokens; first += kRows) {
      const Range rows{first, std::min(tokens, first + kRows)};
      file->read_rows(rows, some.data.data(), 1);
      digest = digest_of(some.data.data(), 4 * rows.size() * columns, digest);
    }
    return fmt::format("{} recorded tokens, digest {:016x}", tokens, digest);
  };
  std::string text;
  if (behind != nullptr)
    text = fmt::format("what {} makes of {}", behind->label, behind->calibrated_by(tokens));
  else if (!inputs.empty())
    text = recorded(inputs, inputs_tensor, shape.in_features);
  else
    text = fmt::format(
        "{} synthetic tokens of {}, seed {}, correlation {}, outlier_share {}, outlier_gain {}", tokens,
        label, seed, synthetic.correlation, synthetic.outlier_share, synthetic.outlier_gain);
  if (!cotangents.empty())
    text += ", cotangents of " + recorded(cotangents, cotangents_tensor, shape.out_features);
  return text;
}

void LayerRef::check_recorded(int64_t calibration, int64_t evaluation) const {
  int64_t tokens = -1;
  if (!inputs.empty()) {
    tokens = recorded_tokens(inputs, inputs_tensor, shape.in_features, "inputs of the layer");
    if (tokens < calibration + evaluation)
      throw std::runtime_error(fmt::format(
          "{}: expected at least {} recorded tokens, {} to calibrate by and {} others to measure on, "
          "found {}",
          inputs, calibration + evaluation, calibration, evaluation, tokens));
  }
  if (cotangents.empty()) return;
  const int64_t others =
      recorded_tokens(cotangents, cotangents_tensor, shape.out_features, "cotangents of the outputs");
  if (tokens >= 0 && others != tokens)
    throw std::runtime_error(fmt::format("{}: expected cotangents of {} tokens, as {} has, found {}",
                                         cotangents, tokens, inputs, others));
  if (others < calibration)
    throw std::runtime_error(fmt::format("{}: expected cotangents of at least {} tokens, found {}",
                                         cotangents, calibration, others));
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

Transport& WeightStore::transport(const std::string& name, const std::string& device, Communicator& comm) {
  const std::string key = fmt::format("{} {} p{}", name, device, comm.size());
  if (const auto failed = failed_transports_.find(key); failed != failed_transports_.end())
    throw AgreedError(failed->second);
  auto& slot = transports_[key];
  try {
    if (!slot) slot = make_transport(name, device, comm);
  } catch (const AgreedError& e) {
    failed_transports_[key] = e.what();
    throw;
  }
  return *slot;
}

void WeightStore::drop_transports(Communicator& comm) {
  const auto over_these = [end = fmt::format(" p{}", comm.size())](const auto& entry) {
    return entry.first.ends_with(end);
  };
  for (const auto& entry : transports_)
    if (over_these(entry) && entry.second) entry.second->release();
  comm.barrier();
  std::erase_if(transports_, over_these);
  std::erase_if(failed_transports_, over_these);
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

Calibration WeightStore::calibration(const LayerRef& layer, int64_t tokens, Communicator& comm) {
  if (layer.behind == nullptr || tokens == 0)
    return [&layer](int64_t first, Matrix<float>& out) { layer.calibration(first, out); };
  auto& slot = gated_[fmt::format("{} p{} {}", layer.behind->key(), comm.size(), tokens)];
  if (!slot)
    slot = std::make_shared<const Matrix<float>>(gated_inputs(
        *original(*layer.behind, comm),
        [&](int64_t first, Matrix<float>& out) { layer.behind->calibration(first, out); }, tokens, comm,
        threads_));
  return [inputs = slot](int64_t first, Matrix<float>& out) {
    std::copy_n(inputs->row(first), out.data.size(), out.data.begin());
  };
}

std::shared_ptr<const CompressedWeights> WeightStore::compressed(const LayerRef& layer, const Scheme& scheme,
                                                                 Communicator& comm) {
  const std::string matrix = fmt::format("{} p{}", layer.key(), comm.size());
  auto& slot = compressed_[matrix + " " + scheme.name()];
  if (!slot && !layer.compressed.empty() && !scheme.name().starts_with("dense")) {
    std::unique_ptr<CompressedFile> file;
    together(comm, [&] { file = std::make_unique<CompressedFile>(layer.compressed); });
    std::string calibration;
    together(comm, [&] { calibration = layer.calibrated_by(scheme.calibration_tokens()); });
    slot = std::make_shared<const CompressedWeights>(file->read(
        entry_name(layer.tensors), scheme.name(), *original(layer, comm), calibration, comm, threads_));
  }
  FactorMemory& factors = factors_[matrix];
  factors.gpus = [&]() -> Transport& { return transport(kFactorTransport, "cuda", comm); };
  if (!slot)
    slot = std::make_shared<const CompressedWeights>(
        compress(scheme, *original(layer, comm), comm, layer.seed, threads_, &factors,
                 calibration(layer, scheme.calibration_tokens(), comm),
                 [&](int64_t first, Range features, Matrix<float>& out) {
                   layer.output_cotangents(first, features, out);
                 }));
  return slot;
}

std::shared_ptr<PackedLayer> WeightStore::packed(const LayerRef& layer, const Scheme& scheme,
                                                 const ShardedOptions& options, const Registry& registry,
                                                 Communicator& comm) {
  std::string key = fmt::format("{} p{} {} {} {} {} m{} t{}", layer.key(), comm.size(), scheme.name(),
                                to_string(options.shard), options.kernel, options.device, options.max_tokens,
                                options.threads);
  if (options.sequence) key += " sequence";
  if (options.bf16_sums) key += " bf16 sums";
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
  auto& slot = products_[fmt::format("{} p{} {} of {}", layer.key(), comm.size(), purpose, x.rows)];
  if (!slot)
    slot =
        std::make_shared<const Matrix<double>>(original_product(*original(layer, comm), x, comm, threads_));
  return slot;
}

void WeightStore::clear_packed() {
  packed_.clear();
  buffers_.clear();
  give_back_freed();
}

void WeightStore::clear() {
  factors_.clear();
  gated_.clear();
  originals_.clear();
  compressed_.clear();
  products_.clear();
  spread_.clear();
  optimal_errors_.clear();
  clear_packed();
}

}  // namespace lamina

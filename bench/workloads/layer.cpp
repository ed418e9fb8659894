#include "bench/workloads/layer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "bench/compressed_file.hpp"
#include "bench/workloads/one_layer.hpp"
#include "bench/workloads/placement.hpp"
#include "bench/workloads/sharded_case.hpp"
#include "distributed/agree.hpp"

namespace lamina {
namespace {

const KeySpec kShard{"shard",
                     "none: rank 0 alone; column: N cut; row: K cut, then all-reduce",
                     std::string("none"),
                     0,
                     0,
                     {"none", "column", "row"}};

const KeySpec kInputs{
    "inputs", "a .safetensors file of the layer's recorded inputs (default: synthetic)", nullptr, 0, 0, {},
    true};
const KeySpec kInputsTensor{"inputs_tensor", "its tensor, [tokens × in_features]", std::string("inputs")};
const KeySpec kCotangentsFile{
    "cotangents",
    "a .safetensors file of recorded cotangents of the outputs, for importance gradient (default: synthetic)",
    nullptr,
    0,
    0,
    {},
    true};
const KeySpec kCotangentsTensor{"cotangents_tensor", "its tensor, [tokens × out_features]",
                                std::string("cotangents")};

const KeySpec kCompressed{
    "compressed", "a file of `lamina compress` to read the scheme's weights from", nullptr, 0, 0, {}, true};

// Whether the file has what would be compressed otherwise.
void read_compressed(const Params& params, LayerRef& ref, const Scheme* scheme) {
  if (!params.has(kCompressed.name)) return;
  ref.compressed = params.string(kCompressed);
  if (!params.has("weights"))
    params.problem(kCompressed.name, "expected \"weights\" beside it, which it was made of, found none");
  else if (scheme != nullptr && !scheme->name().starts_with("dense") && !ref.compressed.empty()) {
    try {
      CompressedFile(ref.compressed).expect(entry_name(ref.tensors), scheme->name(), ref.shape);
    } catch (const std::exception& error) {
      params.problem(kCompressed.name, error.what());
    }
  }
}

// Recorded tensors, and whether they have what the scheme and the case's tokens need.
void read_recorded(const Params& params, LayerRef& ref, const Scheme* scheme, int64_t tokens) {
  const size_t before = params.problems()->items().size();
  for (const auto& [file, tensor, path, name] :
       {std::tuple{&kInputs, &kInputsTensor, &ref.inputs, &ref.inputs_tensor},
        std::tuple{&kCotangentsFile, &kCotangentsTensor, &ref.cotangents, &ref.cotangents_tensor}}) {
    if (params.has(file->name)) *path = params.string(*file);
    *name = params.string(*tensor);
    if (params.has(tensor->name) && !params.has(file->name))
      params.problem(tensor->name,
                     fmt::format("expected \"{}\" beside \"{}\", found none", file->name, tensor->name));
  }
  if (scheme == nullptr || params.problems()->items().size() != before) return;
  try {
    ref.check_recorded(scheme->calibration_tokens(), std::max(tokens, kQualityTokens));
  } catch (const std::exception& error) {
    const bool of_inputs = std::string(error.what()).starts_with(ref.inputs + ":");
    params.problem(!ref.inputs.empty() && of_inputs ? kInputs.name : kCotangentsFile.name, error.what());
  }
}

constexpr double kReplaySeconds = 200e-6;  // many times a graph's launch
constexpr int64_t kReplaySteps = 4096;

class LayerCase : public ForwardCase {
 public:
  LayerCase(const LayerRef& ref, std::shared_ptr<PackedLayer> packed, int64_t cold_bytes, int64_t tokens,
            int threads, WeightStore& store)
      : ref_(ref),
        packed_(std::move(packed)),
        layer_(packed_->layer),
        cold_(replicate_cold({&layer_}, cold_bytes)),
        store_(store),
        tokens_(tokens) {
    Device& device = layer_.device();
    stream_ = device.stream(threads);
    inputs_ = ref_.activations(std::max(tokens, kQualityTokens));
    const Range cols = layer_.local_cols();
    Matrix<float> local(inputs_.rows, cols.size());
    for (int64_t t = 0; t < inputs_.rows; ++t)
      std::copy(inputs_.row(t) + cols.begin, inputs_.row(t) + cols.end, local.row(t));
    together(layer_.comm(), [&] {
      x_ = place_activations(device, local.data.data(), local.rows * local.cols, layer_.input_type());
      y_ = device.allocate(4 * std::max(tokens, kQualityTokens) * layer_.local_out());
    });
  }

  void step(Part part) override {
    layer_.forward(copy_, x_.as<float>(), y_.as<float>(), tokens_, stream_, part);
    copy_ = copy_ + 1 == layer_.copies() ? 0 : copy_ + 1;
  }

  // All copies in turn, again and again until a replay takes long beside its launch.
  Captured capture() override {
    Device& device = layer_.device();
    const auto rounds = [&](int64_t count) {
      return device.capture(stream_, [&] {
        for (int64_t i = 0; i < count * layer_.copies(); ++i) step(Part::all);
      });
    };
    std::unique_ptr<Replay> once = rounds(1);
    if (!once) return {};
    once->run(1);
    const double wanted = kReplaySeconds / std::max(once->run(1), 1e-6);
    const int64_t most = std::max<int64_t>(kReplaySteps / layer_.copies(), 1);
    const int64_t count = std::clamp(static_cast<int64_t>(wanted), int64_t{1}, most);
    return {count == 1 ? std::move(once) : rounds(count), count * layer_.copies()};
  }

  DeviceState device_state() override { return layer_.device().state(); }

  CheckResult check() override {
    Matrix<float> x(tokens_, inputs_.cols);
    std::copy_n(inputs_.data.begin(), x.data.size(), x.data.begin());
    return check_layer(layer_, x, stream_, ref_.seed);
  }

  std::optional<Quality> quality() override {
    const int64_t out = layer_.local_out(), row_bytes = layer_.local_in() * bytes_of(layer_.input_type());
    for (int64_t t = 0; t < kQualityTokens; t += tokens_)
      layer_.forward(0, reinterpret_cast<const float*>(x_.data() + t * row_bytes), y_.as<float>() + t * out,
                     std::min(tokens_, kQualityTokens - t), stream_);
    Matrix<float> y(kQualityTokens, out);
    together(layer_.comm(), [&] {
      layer_.device().synchronize();
      layer_.device().download(y.data.data(), y_.data(), 4 * kQualityTokens * out);
    });
    const Matrix<float> whole = gather_output(layer_, y.data.data(), kQualityTokens);
    return compare_quality(whole,
                           *store_.product(ref_, "quality", ref_.activations(kQualityTokens), layer_.comm()));
  }

  Cost cost() const override { return layer_.cost(tokens_); }
  double network_bytes() const override { return static_cast<double>(layer_.comm_bytes(tokens_)); }
  int collectives() const override { return layer_.collectives(); }
  bool cold() const override { return cold_; }
  void describe(Record& record) override { describe_layers(record, {packed_.get()}, tokens_); }

 private:
  LayerRef ref_;
  std::shared_ptr<PackedLayer> packed_;
  ShardedLayer& layer_;
  bool cold_;
  WeightStore& store_;
  int64_t tokens_;
  Stream stream_;
  Matrix<float> inputs_;
  Buffer x_, y_;  // the device's; inputs are this rank's columns
  int copy_ = 0;
};

class LayerSpec : public CaseSpec {
 public:
  std::unique_ptr<PreparedCase> prepare(WeightStore& store, const Registry& registry,
                                        Communicator& comm) const override {
    ShardedOptions sized = options;
    sized.max_tokens = max_tokens;
    return std::make_unique<LayerCase>(ref, store.packed(ref, *scheme, sized, registry, comm), cold_bytes,
                                       tokens, threads, store);
  }
  LayerRef ref;
  std::unique_ptr<Scheme> scheme;
  ShardedOptions options;
  int64_t cold_bytes = 0;
};

std::unique_ptr<CaseSpec> read_layer(const Params& params, const LaunchInfo& launch,
                                     const Registry& registry) {
  const size_t before = params.problems()->items().size();
  const std::string shard = params.string(kShard);
  const int64_t tokens = params.integer(tokens_key());
  const Placement placement = read_placement(params, launch, shard == "none");
  std::optional<OneLayer> one = read_one_layer(params, launch);
  if (!one) {
    for (const char* key :
         {"scheme", "inputs", "inputs_tensor", "cotangents", "cotangents_tensor", "compressed"})
      params.mark_read(key);
    return nullptr;
  }
  const ModelLayer& layer = one->layer;
  auto spec = std::make_unique<LayerSpec>();
  spec->ref = std::move(one->ref);
  spec->scheme = read_scheme(params, layer.shape, registry);
  read_recorded(params, spec->ref, spec->scheme.get(), tokens);
  read_compressed(params, spec->ref, spec->scheme.get());
  if (!spec->scheme || params.problems()->items().size() != before) return nullptr;

  SpecParts parts;
  parts.workload = "layer";
  parts.model = one->model;
  parts.what = one->model.empty() ? layer.name : one->model + "/" + layer.name;
  parts.layer_name = layer.name;
  parts.shard = shard;
  parts.layers = {spec->ref};
  parts.schemes = {spec->scheme.get()};
  parts.in_features = layer.shape.in_features;
  parts.out_features = layer.shape.out_features;
  fill_spec(*spec, parts, placement, params, launch, registry, tokens);
  ShardedOptions& options = spec->options;
  options.shard = shard == "none" ? Shard::none : shard == "column" ? Shard::column : Shard::row;
  options.kernel = placement.kernel;
  options.device = placement.device;
  options.threads = placement.threads;
  options.halves = layer.halves;
  spec->cold_bytes = cold_bytes(placement, launch);
  return spec;
}

}  // namespace

WorkloadType layer_workload() {
  WorkloadType type;
  type.name = "layer";
  type.help = "one linear layer, Y = X·Wᵀ, alone or cut over ranks";
  type.keys = one_layer_keys();
  type.keys.insert(type.keys.end(), {kShard, tokens_key(), scheme_key(), kInputs, kInputsTensor,
                                     kCotangentsFile, kCotangentsTensor, kCompressed});
  type.keys.insert(type.keys.end(), source_keys().begin(), source_keys().end());
  type.keys.insert(type.keys.end(), placement_keys().begin(), placement_keys().end());
  type.read = read_layer;
  return type;
}

}  // namespace lamina

#include "bench/workloads/layer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "bench/capture.hpp"
#include "bench/workloads/one_layer.hpp"
#include "bench/workloads/placement.hpp"
#include "bench/workloads/recorded.hpp"
#include "bench/workloads/sharded_case.hpp"
#include "distributed/agree.hpp"

namespace lamina {
namespace {

const KeySpec kShard{
    "shard",
    "none: rank 0 alone; column: N cut; row: K cut, then all-reduce; sequence: by the layer's "
    "role, tokens cut too: column after an all-gather, or row, then reduce-scatter",
    std::string("none"),
    0,
    0,
    {"none", "column", "row", "sequence"}};

// Of tensor parallelism: what follows an attention's or a block's sum is cut by columns. A layer given by its
// sizes has no role: by rows.
bool is_column_parallel(const ModelLayer& layer) {
  return layer.name != "o_proj" && layer.name != "down_proj" && layer.name.ends_with("_proj");
}

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
    inputs_ = ref_.activations(std::max(tokens, ref_.quality_tokens));
    x_ = place_inputs(layer_, inputs_, {0, tokens});
    together(layer_.comm(), [&] {
      y_ = device.allocate(bytes_of(layer_.output_type()) * layer_.out_rows(tokens) * layer_.local_out());
    });
  }

  void step(Part part) override {
    layer_.forward(copy_, x_.as<float>(), y_.as<float>(), tokens_, stream_, part);
    copy_ = copy_ + 1 == layer_.copies() ? 0 : copy_ + 1;
  }

  Captured capture(Part part) override {
    return capture_steps(
        layer_.device(), stream_, layer_.comm(),
        {.rounds = layer_.copies(), .transport = part == Part::compute ? nullptr : layer_.transport()},
        [this, part] { step(part); });
  }

  DeviceState device_state() override { return layer_.device().state(); }

  CheckResult check_outputs() override {
    return check_layer(layer_, first_tokens(inputs_, tokens_), stream_, ref_.seed);
  }

  std::optional<Quality> quality() override {
    const Matrix<float> y = quality_outputs(
        layer_, layer_, inputs_, ref_.quality_tokens, tokens_, y_, [&](const Buffer& x, int64_t count) {
          layer_.forward(0, x.as<float>(), y_.as<float>(), count, stream_);
        });
    return compare_quality(
        y, *store_.product(ref_, "quality", first_tokens(inputs_, ref_.quality_tokens), layer_.comm()));
  }

  Cost cost() const override { return layer_.cost(tokens_); }
  double network_bytes() const override { return all_reduced_bytes(layer_, tokens_); }
  int collectives() const override { return layer_.collectives(); }
  Transport* transport() const override { return layer_.transport(); }
  bool cold() const override { return cold_; }
  void describe(Record& record) override { describe_layers(record, {packed_.get()}, tokens_); }
  Promise promise() const override { return packed_->weights->promise; }

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
    if (ranks > 1 && (options.shard == Shard::row || options.sequence))
      sized.transport = &store.transport(communicator, options.device, comm);
    return std::make_unique<LayerCase>(ref, store.packed(ref, *scheme, sized, registry, comm), cold_bytes,
                                       tokens, threads, store);
  }
  LayerRef ref;
  std::unique_ptr<Scheme> scheme;
  ShardedOptions options;
  std::string communicator;
  int64_t cold_bytes = 0;
};

std::unique_ptr<CaseSpec> read_layer(const Params& params, const LaunchInfo& launch,
                                     const Registry& registry) {
  const size_t before = params.problems()->items().size();
  const std::string shard = params.string(kShard);
  const int64_t tokens = params.integer(tokens_key());
  const int64_t overlap = params.integer(overlap_key());
  const std::string sum_dtype = params.string(sum_dtype_key());
  const Placement placement = read_placement(params, launch, shard == "none");
  std::optional<OneLayer> one = read_one_layer(params, launch);
  if (!one) {
    for (const char* key : {"scheme", "inputs", "inputs_tensor", "cotangents", "cotangents_tensor",
                            "compressed", "quality_tokens"})
      params.mark_read(key);
    return nullptr;
  }
  const ModelLayer& layer = one->layer;
  auto spec = std::make_unique<LayerSpec>();
  spec->ref = std::move(one->ref);
  spec->scheme = read_scheme(params, layer.shape, registry);
  read_recorded(params, spec->ref, true, spec->scheme ? spec->scheme->calibration_tokens() : 0, tokens);
  read_compressed(params, {&spec->ref}, {spec->scheme.get()});
  if (!spec->scheme || params.problems()->items().size() != before) return nullptr;

  SpecParts parts;
  parts.workload = "layer";
  parts.model = one->model;
  parts.what = one->model.empty() ? layer.name : one->model + "/" + layer.name;
  parts.layer_name = layer.name;
  parts.shard = shard;
  parts.overlap = shard == "none" ? 1 : overlap;
  parts.layers = {spec->ref};
  parts.schemes = {spec->scheme.get()};
  parts.in_features = layer.shape.in_features;
  parts.out_features = layer.shape.out_features;
  ShardedOptions& options = spec->options;
  options.sequence = shard == "sequence";
  const bool column = shard == "column" || (options.sequence && is_column_parallel(layer));
  if (shard != "none" && !column && placement.ranks > 1) parts.sum_dtype = sum_dtype;
  fill_spec(*spec, parts, placement, params, launch, registry, tokens);
  options.shard = shard == "none" ? Shard::none : column ? Shard::column : Shard::row;
  options.kernel = placement.kernel;
  options.device = placement.device;
  options.threads = placement.threads;
  options.halves = layer.halves;
  options.overlap = static_cast<int>(parts.overlap);
  options.bf16_sums = parts.sum_dtype == "bf16";
  spec->communicator = placement.communicator;
  spec->cold_bytes = cold_bytes(placement, launch);
  return spec;
}

}  // namespace

WorkloadType layer_workload() {
  WorkloadType type;
  type.name = "layer";
  type.help = "one linear layer, Y = X·Wᵀ, alone or cut over ranks";
  type.keys = one_layer_keys();
  type.keys.insert(type.keys.end(), {kShard, overlap_key(), sum_dtype_key(), tokens_key(), scheme_key()});
  for (const auto* keys : {&recorded_keys(), &cotangent_keys()})
    type.keys.insert(type.keys.end(), keys->begin(), keys->end());
  type.keys.insert(type.keys.end(), source_keys().begin(), source_keys().end());
  type.keys.insert(type.keys.end(), placement_keys().begin(), placement_keys().end());
  type.read = read_layer;
  return type;
}

}  // namespace lamina

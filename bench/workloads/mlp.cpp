#include "bench/workloads/mlp.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bench/capture.hpp"
#include "bench/workloads/placement.hpp"
#include "bench/workloads/recorded.hpp"
#include "bench/workloads/sharded_case.hpp"
#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "kernels/cpu/silu.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/reference.hpp"
#include "kernels/weights/synthetic.hpp"

namespace lamina {
namespace {

const KeySpec kHidden{
    "hidden", "the block's input and output features, instead of model", nullptr, 1, 1 << 24, {}, true};
const KeySpec kIntermediate{
    "intermediate", "features between the projections, instead of model", nullptr, 1, 1 << 24, {}, true};
const KeySpec kShard{
    "shard",
    "none: rank 0 alone; column-row: gate_up cut by columns, down by rows; sequence: tokens cut "
    "too, between an all-gather and a reduce-scatter",
    std::string("none"),
    0,
    0,
    {"none", "column-row", "sequence"}};

constexpr double kActivationFactor = 32;         // float32 roundings in silu(g)·u, with margin
constexpr double kBfloat16Rounding = 0x1.01p-8;  // half of its last place, of what float32 gave
constexpr double kFloat16Rounding = 0x1.01p-11, kFloat16Least = 0x1p-25;  // likewise, and of its least number

struct MlpRefs {
  LayerRef gate_up, down;
};

// X·Wᵀ through the whole block with the original weights, in float64: [tokens × hidden].
Matrix<double> original_block(const MlpRefs& refs, WeightStore& store, const Matrix<float>& x,
                              Communicator& comm) {
  const auto gate_up = store.product(refs.gate_up, "quality", x, comm);
  const int64_t width = refs.down.shape.in_features;
  Matrix<float> h(x.rows, width);
  for (int64_t t = 0; t < x.rows; ++t)
    for (int64_t i = 0; i < width; ++i)
      h(t, i) = static_cast<float>(silu_gate_reference((*gate_up)(t, i), (*gate_up)(t, width + i)));
  return *store.product(refs.down, "quality after " + refs.gate_up.key(), h, comm);
}

class MlpCase : public ForwardCase {
 public:
  MlpCase(const MlpRefs& refs, std::shared_ptr<PackedLayer> gate_up, std::shared_ptr<PackedLayer> down,
          int64_t cold_bytes, int64_t tokens, int threads, WeightStore& store)
      : refs_(refs),
        packed_{std::move(gate_up), std::move(down)},
        up_(packed_[0]->layer),
        down_(packed_[1]->layer),
        cold_(replicate_cold({&up_, &down_}, cold_bytes)),
        store_(store),
        tokens_(tokens) {
    Device& device = down_.device();
    stream_ = device.stream(threads);
    inputs_ = refs_.gate_up.activations(std::max(tokens, refs_.gate_up.quality_tokens));
    x_ = place_inputs(up_, inputs_, {0, tokens});
    together(down_.comm(), [&] {
      gate_up_out_ = device.allocate(4 * tokens * up_.local_out());
      hidden_ = device.allocate(tokens * down_.local_in() * bytes_of(down_.input_type()));
      y_ = device.allocate(bytes_of(down_.output_type()) * down_.out_rows(tokens) * down_.local_out());
    });
  }

  void step(Part part) override {
    forward(copy_, x_.data(), y_.as<float>(), tokens_, part);
    copy_ = copy_ + 1 == up_.copies() ? 0 : copy_ + 1;
  }

  Captured capture(Part part) override {
    return capture_steps(
        down_.device(), stream_, down_.comm(),
        {.rounds = up_.copies(), .transport = part == Part::compute ? nullptr : down_.transport()},
        [this, part] { step(part); });
  }
  DeviceState device_state() override { return down_.device().state(); }

  CheckResult check_outputs() override {
    const Matrix<float> x = first_tokens(inputs_, tokens_);
    CheckResult result = check_layer(up_, x, stream_, refs_.gate_up.seed);
    // The block as it is timed, with every buffer poisoned; then each part held against what the one before
    // it gave.
    Device& device = down_.device();
    together(down_.comm(), [&] {
      // Two bfloat16 of a poisoned word are NaN like the float32.
      for (Buffer* buffer : {&gate_up_out_, &hidden_, &y_})
        device.fill(buffer->data(), 0x7fc07fc0u, buffer->bytes() / 4 * 4);
    });
    forward(0, x_.data(), y_.as<float>(), tokens_, Part::all);
    const std::vector<float> gate_up = fetch(gate_up_out_, tokens_ * up_.local_out(), InputType::f32);
    const std::vector<float> hidden = fetch(hidden_, tokens_ * down_.local_in(), down_.input_type());
    const std::vector<float> outputs = fetch(y_, own_outputs(), down_.output_type());
    const Matrix<float> gates = gather_output(up_, gate_up.data(), tokens_);
    const Range own = down_.local_cols();
    const int64_t width = refs_.down.shape.in_features;
    Matrix<float> h(tokens_, width);
    silu_gate(gates.data.data(), h.data.data(), tokens_, width, stream_.threads);
    const InputType type = down_.input_type();
    const double rounding = type == InputType::bf16  ? kBfloat16Rounding
                            : type == InputType::f16 ? kFloat16Rounding
                                                     : 0;
    CheckResult activation;
    for (int64_t t = 0; t < tokens_; ++t)
      for (int64_t i = own.begin; i < own.end; ++i) {
        const double gate = gates(t, i), up = gates(t, width + i), wanted = silu_gate_reference(gate, up);
        CheckResult one;
        one.error = std::abs(
            static_cast<double>(hidden[static_cast<size_t>(t * own.size() + i - own.begin)]) - wanted);
        if (std::isnan(one.error)) one.error = std::numeric_limits<double>::infinity();
        one.tolerance = kActivationFactor * kFloat32Epsilon * std::abs(gate * up) +
                        rounding * std::abs(wanted) + (type == InputType::f16 ? kFloat16Least : 1e-30);
        one.passed = one.error <= one.tolerance;
        if (!one.passed)
          one.where = fmt::format("activation, token {}, feature {}, rank {}", t, i, down_.comm().rank());
        activation.merge(one);
      }
    agree_on(activation);
    result.merge(activation);
    result.merge(check_layer(down_, h, stream_, refs_.down.seed));
    // And the timed output itself is the down projection of those very activations.
    down_.forward(0, hidden_.as<float>(), y_.as<float>(), tokens_, stream_);
    const std::vector<float> again = fetch(y_, own_outputs(), down_.output_type());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < again.size(); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(again[i])));
      const double d = std::abs(static_cast<double>(again[i]) - static_cast<double>(outputs[i]));
      difference =
          d >= 0 ? std::max(difference, d) : std::numeric_limits<double>::max();  // NaN is as wrong as can be
    }
    CheckResult block;
    block.error = difference;
    // In bfloat16, where sums differ in their last bits, a whole step.
    const bool narrow = down_.output_type() != InputType::f32;
    block.tolerance = (narrow ? 2 * kBfloat16Rounding : 1e-5) * largest + 1e-30;
    block.passed = difference <= block.tolerance;
    if (!block.passed)
      block.where =
          fmt::format("block output against its down projection run alone, rank {}", down_.comm().rank());
    agree_on(block);
    result.merge(block);
    return result;
  }

  std::optional<Quality> quality() override {
    const Matrix<float> y = quality_outputs(
        up_, down_, inputs_, refs_.gate_up.quality_tokens, tokens_, y_,
        [&](const Buffer& x, int64_t count) { forward(0, x.data(), y_.as<float>(), count, Part::all); });
    return compare_quality(
        y, original_block(refs_, store_, first_tokens(inputs_, refs_.gate_up.quality_tokens), down_.comm()));
  }

  Cost cost() const override {
    Cost both = up_.cost(tokens_);
    both += down_.cost(tokens_);
    return both;
  }
  double network_bytes() const override {
    return all_reduced_bytes(up_, tokens_) + all_reduced_bytes(down_, tokens_);
  }
  int collectives() const override { return up_.collectives() + down_.collectives(); }
  Transport* transport() const override { return down_.transport(); }
  bool cold() const override { return cold_; }
  void describe(Record& record) override {
    describe_layers(record, {packed_[0].get(), packed_[1].get()}, tokens_);
  }
  Promise promise() const override { return promise_of({packed_[0].get(), packed_[1].get()}); }

 private:
  // Of y, without rows beyond this rank's tokens, which nobody sets.
  int64_t own_outputs() const {
    return (down_.scatters() ? down_.own_tokens(tokens_).size() : tokens_) * down_.local_out();
  }

  // x of the gate_up's input type.
  void forward(int copy, const std::byte* x, float* y, int64_t tokens, Part part) {
    up_.forward(copy, reinterpret_cast<const float*>(x), gate_up_out_.as<float>(), tokens, stream_, part);
    if (part != Part::communicate) gate(tokens);
    down_.forward(copy, hidden_.as<float>(), y, tokens, stream_, part);
  }

  void gate(int64_t tokens) {
    const int64_t width = down_.local_in();
    if (stream_.handle == nullptr)
      silu_gate(gate_up_out_.as<float>(), hidden_.as<float>(), tokens, width, stream_.threads);
    else
      cuda_silu_gate(gate_up_out_.as<float>(), hidden_.data(), down_.input_type(), tokens, width, stream_);
  }

  std::vector<float> fetch(const Buffer& from, int64_t count, InputType type) {
    std::vector<float> values;
    together(down_.comm(), [&] { values = fetch_activations(down_.device(), from.data(), count, type); });
    return values;
  }

  // The worst result over ranks, the same on every rank.
  void agree_on(CheckResult& result) {
    Communicator& comm = down_.comm();
    const double ratio = comm.max(result.passed ? 0 : 1);
    const Agreement agreement = comm.agree(result.passed ? "" : result.where);
    if (!agreement.ok) result.where = agreement.message;
    result.passed = ratio == 0;
    result.error = comm.max(result.error);
    result.tolerance = comm.max(result.tolerance);
  }

  MlpRefs refs_;
  std::vector<std::shared_ptr<PackedLayer>> packed_;
  ShardedLayer &up_, &down_;
  bool cold_;
  WeightStore& store_;
  int64_t tokens_;
  Stream stream_;
  Matrix<float> inputs_;
  Buffer x_, gate_up_out_, hidden_, y_;  // the device's
  int copy_ = 0;
};

class MlpSpec : public CaseSpec {
 public:
  std::unique_ptr<PreparedCase> prepare(WeightStore& store, const Registry& registry,
                                        Communicator& comm) const override {
    ShardedOptions up = up_options, down = down_options;
    up.max_tokens = down.max_tokens = max_tokens;
    if (ranks > 1) up.transport = down.transport = &store.transport(communicator, down.device, comm);
    return std::make_unique<MlpCase>(refs, store.packed(refs.gate_up, *up_scheme, up, registry, comm),
                                     store.packed(refs.down, *down_scheme, down, registry, comm), cold_bytes,
                                     tokens, threads, store);
  }
  MlpRefs refs;
  std::unique_ptr<Scheme> up_scheme, down_scheme;
  ShardedOptions up_options, down_options;
  std::string communicator;
  int64_t cold_bytes = 0;
};

bool read_sizes(const Params& params, Model& model) {
  if (params.has("hidden") || params.has("intermediate")) {
    if (params.has("model"))
      params.problem("model", "expected either model, or hidden and intermediate; found both");
    params.mark_read("model");
    params.mark_read("layer_index");
    model.hidden_size = params.integer(kHidden);
    model.intermediate_size = params.integer(kIntermediate);
    for (const KeySpec* key : {&kHidden, &kIntermediate})
      if (!params.has(key->name))
        params.problem(key->name, fmt::format("expected \"{}\" beside its pair, found none", key->name));
    model.num_attention_heads = model.num_key_value_heads = 1;
    model.head_dim = model.hidden_size;
    return true;
  }
  KeySpec model_key = source_keys()[0];
  model_key.optional = false;
  const std::string name = params.string(model_key);
  if (name.empty()) return false;
  try {
    model = load_model(name);
    return true;
  } catch (const std::exception& e) {
    params.problem("model", e.what());
    return false;
  }
}

std::unique_ptr<CaseSpec> read_mlp(const Params& params, const LaunchInfo& launch, const Registry& registry) {
  const size_t before = params.problems()->items().size();
  const std::string shard = params.string(kShard);
  const int64_t tokens = params.integer(tokens_key());
  const int64_t overlap = params.integer(overlap_key());
  const std::string sum_dtype = params.string(sum_dtype_key());
  const Placement placement = read_placement(params, launch, shard == "none");
  const int64_t index = params.integer(source_keys()[1]);
  Model model;
  const bool sized = read_sizes(params, model);
  auto spec = std::make_unique<MlpSpec>();
  if (!sized) {
    params.mark_read("scheme");
    read_synthetic(params);
    params.mark_read("weights");
    for (const KeySpec& key : recorded_keys()) params.mark_read(key.name);
    return nullptr;
  }
  const ModelLayer up = model_layer(model, "gate_up_proj", index),
                   down = model_layer(model, "down_proj", index);
  spec->refs = {read_layer_ref(params, up.name, up, launch), read_layer_ref(params, down.name, down, launch)};
  if (params.has("weights") && model.name.empty())
    params.problem("weights", "expected \"model\" beside \"weights\", found sizes");
  if (params.has("weights") && params.problems()->items().size() == before) {
    try {
      spec->refs.gate_up.open();
      spec->refs.down.open();
    } catch (const std::exception& e) {
      params.problem("weights", e.what());
    }
  }
  spec->up_scheme = read_scheme(params, up.shape, registry);
  spec->down_scheme = read_scheme(params, down.shape, registry);
  LayerRef& gate_up = spec->refs.gate_up;
  const bool made = spec->up_scheme != nullptr && spec->down_scheme != nullptr;
  read_recorded(
      params, gate_up, false,
      made ? std::max(spec->up_scheme->calibration_tokens(), spec->down_scheme->calibration_tokens()) : 0,
      tokens);
  spec->refs.down.behind = std::make_shared<const LayerRef>(gate_up);
  read_compressed(params, {&gate_up, &spec->refs.down}, {spec->up_scheme.get(), spec->down_scheme.get()});
  if (!made || params.problems()->items().size() != before) return nullptr;

  SpecParts parts;
  parts.workload = "mlp";
  parts.model = model.name;
  parts.what =
      model.name.empty() ? fmt::format("{}x{}", model.hidden_size, model.intermediate_size) : model.name;
  parts.layer_name = "mlp";
  parts.shard = shard;
  parts.overlap = shard == "none" ? 1 : overlap;
  if (shard != "none" && placement.ranks > 1) parts.sum_dtype = sum_dtype;
  parts.layers = {spec->refs.gate_up, spec->refs.down};
  parts.schemes = {spec->up_scheme.get(), spec->down_scheme.get()};
  parts.in_features = model.hidden_size;
  parts.out_features = model.hidden_size;
  fill_spec(*spec, parts, placement, params, launch, registry, tokens);
  spec->identity.set("intermediate_features", model.intermediate_size);
  // What calibrates down.
  spec->canonical_bytes += 4 * spec->down_scheme->calibration_tokens() * model.intermediate_size;

  // Each rank must hold the ups and gates of the very columns of down that it holds.
  const int64_t unit = std::lcm(spec->up_scheme->units().rows, spec->down_scheme->units().cols);
  const std::vector<Range> cut = partition(model.intermediate_size, placement.ranks, unit);
  ShardedOptions options;
  options.kernel = placement.kernel;
  options.device = placement.device;
  options.threads = placement.threads;
  spec->communicator = placement.communicator;
  spec->cold_bytes = cold_bytes(placement, launch);
  spec->up_options = spec->down_options = options;
  spec->up_options.halves = 2;
  if (shard != "none") {
    spec->up_options.sequence = spec->down_options.sequence = shard == "sequence";
    spec->up_options.shard = Shard::column;
    spec->up_options.column_cut = cut;
    spec->down_options.shard = Shard::row;
    spec->down_options.row_cut = cut;
    spec->down_options.overlap = static_cast<int>(parts.overlap);
    spec->down_options.bf16_sums = parts.sum_dtype == "bf16";
  }
  return spec;
}

}  // namespace

WorkloadType mlp_workload() {
  WorkloadType type;
  type.name = "mlp";
  type.help = "gate_up (column), SiLU-gated activation, down (row), with one all-reduce";
  type.keys = {kHidden, kIntermediate, kShard, overlap_key(), sum_dtype_key(), tokens_key(), scheme_key()};
  type.keys.insert(type.keys.end(), recorded_keys().begin(), recorded_keys().end());
  type.keys.insert(type.keys.end(), source_keys().begin(), source_keys().end());
  type.keys.insert(type.keys.end(), placement_keys().begin(), placement_keys().end());
  type.read = read_mlp;
  return type;
}

}  // namespace lamina

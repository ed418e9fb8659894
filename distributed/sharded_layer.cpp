#include "distributed/sharded_layer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "distributed/agree.hpp"
#include "distributed/partition.hpp"
#include "distributed/variable.hpp"

namespace lamina {
namespace {

// The best kernel that takes every rank's part: one row of the table is one kernel. Ranks with an empty part
// take any.
const Kernel* agree_on_kernel(const Registry& registry, const ShardedOptions& options, const Leaf& part,
                              Communicator& comm) {
  const bool empty = part.rows == 0 || part.cols == 0;
  const std::vector<const Kernel*> kernels = registry.kernels(options.device);
  std::vector<int32_t> takes;
  std::string why;
  together(comm, [&] {
    for (const Kernel* kernel : kernels) {
      const bool named = options.kernel == "auto" || kernel->name == options.kernel;
      takes.push_back(named && kernel->absent.empty() && (empty || kernel->refuses(part).empty()) ? 1 : 0);
    }
    if (!empty) registry.choose(options.kernel, options.device, part, &why);
  });
  comm.all_reduce(takes.data(), takes.data(), static_cast<int64_t>(takes.size()), DType::i32, ReduceOp::min);
  for (size_t i = 0; i < takes.size(); ++i) {
    if (takes[i]) return kernels[i];
  }
  const Agreement agreement = comm.agree(why);  // a rank that none takes says why
  if (!agreement.ok) throw NoKernelError(agreement.message);
  throw NoKernelError(
      fmt::format("expected one kernel for all {} ranks' parts, found none that takes every one of them; "
                  "use another rank count or shard",
                  comm.size()));
}

// Multiprocessors that sums beside products take, and products leave them. The variable is for who compares.
int side_multiprocessors(Communicator& comm) {
  constexpr int64_t kUsual = 8, kMost = 64;
  return static_cast<int>(agreed_variable(
      "LAMINA_OVERLAP_MULTIPROCESSORS", "multiprocessors for sums beside products", 0, kMost, kUsual, comm));
}

// Packs the stage's part once more; a rank without a part has nothing to pack.
void pack(Stage& stage, LayerOptions options) {
  if (stage.part.rows == 0 || stage.part.cols == 0) return;
  options.workspace = stage.workspace.get();
  stage.copies.push_back(stage.kernel->make(stage.part, options));
}

}  // namespace

ShardedLayer::ShardedLayer(const CompressedWeights& weights, const ShardedOptions& options,
                           const Registry& registry, Communicator& comm)
    : comm_(comm), options_{.max_tokens = options.max_tokens, .threads = options.threads} {
  if (comm.size() > 1) options_.ways = Ways::exact;
  const std::vector<Leaf>& leaves = weights.canonical.leaves;
  const size_t rank = static_cast<size_t>(comm.rank());
  const int ranks = comm.size();
  together(comm, [&] {
    if (options.shard == Shard::none && ranks != 1) {
      throw std::invalid_argument(fmt::format("shard none: expected one rank, found {}", ranks));
    }
    if (options.max_tokens < 1 || options.threads < 1) {
      throw std::invalid_argument(fmt::format("expected at least 1 token and thread, found {} and {}",
                                              options.max_tokens, options.threads));
    }
    device_ = find_device(options.device);
    if (device_ == nullptr) throw DeviceError(options.device + ": not available; `lamina list` says why");
    const bool sum = weights.canonical.is_sum();
    // All leaves at once: those of a sum are cut alike.
    CutUnits unit;
    for (const Leaf& leaf : leaves) {
      const bool of_rank =
          weights.canonical.has_factors() && &leaf == &leaves[leaves.size() - 2];  // U's columns
      if (&leaf != &leaves.back() || leaves.size() == 1)
        unit.rows = std::lcm(unit.rows, leaf_units(leaf).rows);
      if (!of_rank) unit.cols = std::lcm(unit.cols, leaf_units(leaf).cols);
    }
    const auto add_stage = [&](const Leaf& leaf, Shape shape, const ShardedOptions& cut) -> Stage& {
      Stage& stage = stages_.emplace_back();
      stage.truth = &leaf;
      stage.cut = make_cut(shape, cut.shard, ranks, unit, cut.halves, cut.row_cut, cut.column_cut);
      return stage;
    };
    if (weights.canonical.has_factors()) {
      // V's outputs are the rank: whole on every rank, so that U can be cut by rows, or summed over the cuts
      // of K.
      const Leaf &u = leaves[leaves.size() - 2], &v = leaves.back();
      ShardedOptions v_options = options, u_options = options;
      v_options.halves = 1;
      if (options.shard == Shard::column) v_options.shard = Shard::none;
      if (options.shard == Shard::row) u_options.shard = Shard::none;
      Stage& before = add_stage(v, {v.rows, v.cols}, v_options);
      before.truth_whole = true;
      before.partial = sum && before.cut.reduce;
      before.cut.reduce = before.cut.reduce && !sum;
      add_stage(u, {weights.shape.out_features, u.cols}, u_options).follows = true;
    }
    if (!weights.canonical.is_chain()) {
      const Leaf& leaf = leaves.front();
      add_stage(leaf, {weights.shape.out_features, leaf.cols}, options).adds = sum;
    }
    for (Stage& each : stages_) {
      if (each.cut.reduce && ranks > 1) each.type = options.bf16_sums ? InputType::bf16 : InputType::f32;
      each.local_in = each.cut.cols[rank].size();
      each.local_out = total_size(each.cut.rows[rank]);
    }
  });
  const bool reduces =
      std::any_of(stages_.begin(), stages_.end(), [](const Stage& s) { return s.cut.reduce; });
  scatters_ = options.sequence && ranks > 1 && reduces;
  gathers_ = options.sequence && ranks > 1 && options.shard == Shard::column;
  if (ranks > 1 && (reduces || gathers_)) {
    if (options.transport == nullptr) own_transport_ = make_transport("auto", options.device, comm);
    transport_ = own_transport_ ? own_transport_.get() : options.transport;
  }
  for (Stage& stage : stages_) {
    if (stage.truth_whole) {
      together(comm, [&] { stage.part = slice(*stage.truth, {0, stage.truth->rows}, stage.cut.cols[rank]); });
    } else {
      stage.part = redistribute(*stage.truth, stage.cut.rows[rank], stage.cut.cols[rank], comm);
    }
    stage.kernel = agree_on_kernel(registry, options, stage.part, comm);
    together(comm, [&] { pack(stage, options_); });
  }
  if (transport_ != nullptr) overlap_ = options.overlap;
  const int side = overlap_ > 1 ? side_multiprocessors(comm) : 0;
  together(comm, [&] {
    for (Stage& stage : stages_) {
      // Where sums are scattered, rows for as many tokens as all ranks' shares have together.
      const int64_t rows = scatters_ ? ranks * share(options.max_tokens) : options.max_tokens;
      const int64_t count = rows * stage.local_out;
      const int64_t bytes = count * bytes_of(stage.type);
      if (&stage != &stages_.back())
        stage.output = options.device == "cpu" ? Buffer(bytes, options.threads) : device_->allocate(bytes);
      if (!stage.cut.reduce || ranks == 1) continue;
      if (scatters_) {
        stage.unscattered = device_->allocate(bytes);
        device_->fill(stage.unscattered.data(), 0, bytes);
      }
      if (narrow(stage)) stage.wide = device_->allocate(4 * count);
      // Varied numbers of an activation's size: zeros or infinities may travel or add up at another speed.
      std::vector<float> payload(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i)
        payload[static_cast<size_t>(i)] = static_cast<float>(i % 1021 - 510) * 1e-2f;
      stage.payload = place_activations(*device_, payload.data(), count, stage.type);
    }
    if (gathers_) {
      gathered_ = device_->allocate(ranks * share(options.max_tokens) * local_in() * bytes_of(input_type()));
      device_->fill(gathered_.data(), 0, gathered_.bytes() / 4 * 4);
    }
    if (transport_ == nullptr) return;
    if (options.sequence && options.overlap > 1)
      throw std::invalid_argument(
          fmt::format("overlap {}: expected 1 where tokens are cut over ranks", options.overlap));
    if (overlap_ > 1) side_ = device_->beside(side);
    if (overlap_ > 1 && side_ == nullptr)
      throw std::invalid_argument(fmt::format(
          "overlap {}: expected a GPU, whose second stream sums while the first computes, found device {}; "
          "leave it at 1",
          overlap_, options.device));
  });
}

void ShardedLayer::replicate(int copies) {
  if (replicated_) return;
  replicated_ = true;
  together(comm_, [&] {
    for (Stage& stage : stages_) {
      for (int copy = copies_; copy < copies; ++copy) pack(stage, options_);
      stage.part = Leaf();
    }
  });
  copies_ = std::max(copies, copies_);
}

void ShardedLayer::forward(int copy, const float* x, float* y, int64_t tokens, Stream& stream, Part part) {
  if (copy < 0 || copy >= copies_ || tokens < 1 || tokens > options_.max_tokens) {
    throw std::invalid_argument(
        fmt::format("forward: expected copy 0 to {} and 1 to {} tokens, found {} and {}", copies_ - 1,
                    options_.max_tokens, copy, tokens));
  }
  const auto output = [&](size_t s) {
    return s + 1 == stages_.size() ? reinterpret_cast<std::byte*>(y) : stages_[s].output.data();
  };
  const auto layer = [&](size_t s) -> Layer* {
    return stages_[s].copies.empty() ? nullptr : stages_[s].copies[static_cast<size_t>(copy)].get();
  };
  const float* first = x;
  if (gathers_) {
    const int64_t bytes = share(tokens) * local_in() * bytes_of(input_type());
    if (part != Part::compute) transport_->all_gather(x, gathered_.data(), bytes, stream);
    first = gathered_.as<float>();
  }
  bool done = false;  // this stage's product, with the one before it
  for (size_t s = 0; s < stages_.size(); ++s) {
    Stage& stage = stages_[s];
    const float* in = stage.follows ? reinterpret_cast<const float*>(output(s - 1)) : first;
    std::byte* out = output(s);
    if (reduces(stage) && overlap_ > 1) {
      overlapped(s, copy, in, out, tokens, part, stream);
    } else if (part != Part::communicate && !done) {
      if (s + 1 < stages_.size() && stages_[s + 1].follows && !rounds(s) && !reduces(stage) &&
          layer(s) != nullptr && layer(s + 1) != nullptr) {
        layer(s)->forward_then(*layer(s + 1), in, stage.output.as<float>(),
                               reinterpret_cast<float*>(output(s + 1)), tokens, stream);
        done = true;
      } else {
        compute(s, copy, in, scatters_ && reduces(stage) ? stages_[s].unscattered.data() : out, tokens, 0,
                stream);
      }
    } else {
      done = false;
    }
    if (part != Part::compute && reduces(stage) && overlap_ == 1) sum(s, out, tokens, part, 0, stream);
    if (scatters_ && reduces(stage)) tokens = own_tokens(tokens).size();
  }
}

bool ShardedLayer::rounds(size_t s) const {
  const Stage& stage = stages_[s];
  if (!stage.follows) return stage.kernel->input != input_type();
  return !(narrow(stages_[s - 1]) && stage.kernel->input == stages_[s - 1].type);
}

void ShardedLayer::compute(size_t s, int copy, const float* x, std::byte* out, int64_t tokens, int64_t begin,
                           Stream& stream) {
  Stage& stage = stages_[s];
  const int64_t count = tokens * stage.local_out;
  if (stage.follows && narrow(stages_[s - 1]) && rounds(s)) {
    float* const wide = stages_[s - 1].wide.as<float>();
    device_->widen_bf16(x, wide, tokens * stage.local_in, stream);
    x = wide;
  }
  if (narrow(stage) && !stage.adds && !rounds(s) && !stage.copies.empty() && count > 0 &&
      stage.copies[static_cast<size_t>(copy)]->forward_bf16(x, out, tokens, stream))
    return;
  float* const wide = narrow(stage) ? stage.wide.as<float>() : reinterpret_cast<float*>(out);
  product(s, copy, x, wide, tokens, stream);
  if (stage.adds)
    device_->add(stages_[s - 1].output.as<float>() + begin * stage.local_out, wide, count, stream);
  if (narrow(stage)) device_->round_bf16(wide, out, count, stream);
}

void ShardedLayer::product(size_t s, int copy, const float* x, float* out, int64_t tokens, Stream& stream) {
  const Stage& stage = stages_[s];
  const int64_t count = tokens * stage.local_out;
  if (count == 0) return;
  if (stage.copies.empty()) {
    device_->clear(out, count * int64_t{sizeof(float)}, stream);  // no share of K: adds nothing
    return;
  }
  Layer& layer = *stage.copies[static_cast<size_t>(copy)];
  rounds(s) ? layer.forward_rounding(x, out, tokens, stream) : layer.forward(x, out, tokens, stream);
}

void ShardedLayer::sum(size_t s, std::byte* out, int64_t tokens, Part part, int64_t begin, Stream& stream) {
  const Stage& stage = stages_[s];
  const DType dtype = narrow(stage) ? DType::bf16 : DType::f32;
  if (scatters_) {
    const Buffer& from = part == Part::communicate ? stage.payload : stage.unscattered;
    transport_->reduce_scatter(from.data(), out, share(tokens) * stage.local_out, dtype, ReduceOp::sum,
                               stream);
    return;
  }
  // Alone, a sum in place would sum its own result, call after call, until it is infinite.
  const std::byte* partial =
      part == Part::communicate ? stage.payload.data() + begin * stage.local_out * bytes_of(stage.type) : out;
  transport_->all_reduce(partial, out, tokens * stage.local_out, dtype, ReduceOp::sum, stream);
}

void ShardedLayer::overlapped(size_t s, int copy, const float* x, std::byte* out, int64_t tokens, Part part,
                              Stream& stream) {
  const Stage& stage = stages_[s];
  const int64_t token_bytes = stage.local_in * bytes_of(stage.follows ? stages_[s - 1].type : input_type());
  for (int64_t begin = 0, count = first_chunk(stage, tokens); begin < tokens;
       begin += count, count = std::min(later_chunk(tokens), tokens - begin)) {
    const auto* from =
        reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(x) + begin * token_bytes);
    std::byte* to = out + begin * stage.local_out * bytes_of(stage.type);
    if (part != Part::communicate) {
      // Alone, products have the whole GPU, and the first has nothing beside it.
      Stream narrowed = side_->beside(stream);
      compute(s, copy, from, to, count, begin, part == Part::all && begin > 0 ? narrowed : stream);
    }
    if (part == Part::compute) continue;
    // Behind the last there is nothing to hide it: it may have the whole GPU.
    const bool beside = part == Part::all && begin + count < tokens;
    if (beside) {
      side_->follow(stream);
    } else if (part == Part::all && begin > 0) {
      side_->join(stream);
    }
    sum(s, to, count, part, begin, beside ? side_->stream() : stream);
  }
}

int64_t ShardedLayer::first_chunk(const Stage& stage, int64_t tokens) const {
  if (!reduces(stage) || overlap_ == 1) return tokens;
  const int64_t later = later_chunk(tokens);
  return std::max(tokens - (overlap_ - 1) * later, std::min(later, tokens));
}

InputType ShardedLayer::input_type() const {
  const InputType first = stages_.front().kernel->input;
  for (const Stage& stage : stages_)
    if (!stage.follows && stage.kernel->input != first) return InputType::f32;
  return first;
}
int64_t ShardedLayer::local_in() const {
  return stages_.front().local_in;
}
int64_t ShardedLayer::local_out() const {
  return stages_.back().local_out;
}

Range ShardedLayer::local_cols() const {
  return stages_.front().cut.cols[static_cast<size_t>(comm_.rank())];
}

Range ShardedLayer::own_tokens(int64_t tokens) const {
  if (!gathers_ && !scatters_) return {0, tokens};
  const int64_t each = share(tokens);
  return {std::min(tokens, comm_.rank() * each), std::min(tokens, (comm_.rank() + 1) * each)};
}

const std::vector<Range>& ShardedLayer::local_rows() const {
  return stages_.back().cut.rows[static_cast<size_t>(comm_.rank())];
}

Cost ShardedLayer::cost(int64_t tokens) const {
  Cost sum;
  for (const Stage& stage : stages_) {
    if (!stage.copies.empty()) sum += stage.copies.front()->cost(tokens);
  }
  return sum;
}

int64_t ShardedLayer::weight_bytes() const {
  int64_t sum = 0;
  for (const Stage& stage : stages_) sum += stage.copies.empty() ? 0 : stage.copies.front()->weight_bytes();
  return sum;
}

int64_t ShardedLayer::comm_bytes(int64_t tokens) const {
  int64_t sum = gathers_ ? tokens * local_in() * bytes_of(input_type()) : 0;
  for (const Stage& stage : stages_) {
    if (reduces(stage)) sum += tokens * stage.local_out * bytes_of(stage.type);
  }
  return sum;
}

int ShardedLayer::collectives() const {
  const auto sums =
      std::count_if(stages_.begin(), stages_.end(), [&](const Stage& stage) { return reduces(stage); });
  return static_cast<int>(sums) + (gathers_ ? 1 : 0);
}

std::string ShardedLayer::kernel_name() const {
  std::string name;
  std::vector<std::string> seen;
  for (const Stage& stage : stages_) {
    if (std::find(seen.begin(), seen.end(), stage.kernel->name) != seen.end()) continue;
    name += (seen.empty() ? "" : "+") + stage.kernel->name;
    seen.push_back(stage.kernel->name);
  }
  return name;
}

std::string ShardedLayer::isa() const {
  return stages_.front().kernel->isa;
}

}  // namespace lamina

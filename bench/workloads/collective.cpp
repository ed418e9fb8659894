#include "bench/workloads/collective.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "bench/workloads/collective_case.hpp"
#include "bench/workloads/placement.hpp"
#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 40;
constexpr double kNominalBandwidth = 2e9;  // bytes/s, for estimates only
constexpr double kCheckSeconds = 10e-9;    // an element and rank

std::vector<std::string> collective_names() {
  std::vector<std::string> names;
  for (const Collective& one : collectives()) names.push_back(one.name);
  return names;
}

const KeySpec& collective_key() {
  static const KeySpec key{"collective", "which one", nullptr, 0, 0, collective_names()};
  return key;
}
const KeySpec kMessageBytes{"message_bytes",
                            "the whole buffer, as nccl-tests counts it, rounded down to whole elements; "
                            "{\"from\", \"to\", \"factor\"} sweeps",
                            nullptr, 0, static_cast<double>(kMostBytes)};
const KeySpec kDtype{"dtype", "of its elements", std::string("f32"), 0, 0, {"f32", "bf16", "f16", "int8"}};
const KeySpec kInPlace{"in_place", "whether input and output are one buffer", false};
const KeySpec kPayload{"payload",
                       "what an all_reduce sends: the elements themselves, or codes of so many bits",
                       std::string("none"),
                       0,
                       0,
                       {"none", "int8", "fp8", "int4"}};
const KeySpec kPayloadBlock{"payload_block", "elements that share a scale; a multiple of 32", int64_t{128},
                            32, 1024};
const KeySpec kErrorFeedback{"error_feedback",
                             "whether what encoding lost is added to the next call's numbers", false};
const KeySpec kGraph{"graph", "cuda: whether calls are captured in a graph", true};

DType dtype_of(const std::string& name) {
  return name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : name == "int8" ? DType::i8 : DType::f32;
}

class CollectiveSpec : public CaseSpec {
 public:
  std::unique_ptr<PreparedCase> prepare(WeightStore& store, const Registry&,
                                        Communicator& comm) const override {
    CollectiveTask sized = task;
    sized.most_bytes = max_tokens;
    return std::make_unique<CollectiveCase>(sized, store, comm);
  }
  CollectiveTask task;
};

void read_compression(const Params& params, CollectiveTask& task) {
  const std::string payload = params.string(kPayload), dtype = params.string(kDtype);
  Compression compression;
  compression.block = params.integer(kPayloadBlock);
  compression.error_feedback = params.boolean(kErrorFeedback);
  if (compression.block % 32 != 0)
    params.problem("payload_block", fmt::format("expected a multiple of 32, found {}", compression.block));
  if (payload == "none") return;
  compression.payload = payload == "int8" ? Payload::int8 : payload == "fp8" ? Payload::fp8 : Payload::int4;
  if (task.collective != nullptr && task.collective->kind != CollectiveKind::all_reduce)
    params.problem("payload",
                   fmt::format("expected \"none\" with {}: only an all_reduce is compressed, found \"{}\"",
                               task.collective->name, payload));
  if (dtype == "int8")
    params.problem("payload", fmt::format("expected \"none\" with dtype int8, found \"{}\"", payload));
  task.compression = compression;
}

std::string why_skipped(const CollectiveTask& task, int ranks, const LaunchInfo& launch) {
  if (ranks > launch.ranks)
    return fmt::format("needs {} ranks, launched with {}: mpirun -n {}", ranks, launch.ranks, ranks);
  if (task.in_place && !task.collective->in_place) return task.collective->name + " has no form in place";
  if (task.communicator == "self" && ranks > 1) return "communicator self: for one rank alone";
  const TransportType* type = find_transport(task.communicator, task.device);
  if (type == nullptr) return fmt::format("no communicator for {} memory in this build", task.device);
  if (!type->absent.empty()) return fmt::format("communicator {}: {}", type->name, type->absent);
  const Device* device = find_device(task.device);
  const int64_t needed = 2 * task.sizes.message * dtype_bytes(task.dtype);
  const bool on_gpu = device != nullptr && device->free_bytes() > 0;
  return on_gpu ? too_little_gpu_memory(needed, device->free_bytes()) : "";
}

void fill_identity(CollectiveSpec& spec, const Params& params, const std::string& likely) {
  const CollectiveTask& task = spec.task;
  Record& id = spec.identity;
  id = Record("collective");
  id.set("case", spec.name);
  id.set("workload", std::string("collective"));
  id.set("collective", task.collective->name);
  id.set("message_bytes", task.sizes.message * dtype_bytes(task.dtype));
  id.set("dtype", params.string(kDtype));
  id.set("in_place", task.in_place);
  if (task.compression) {
    id.set("payload", to_string(task.compression->payload));
    id.set("payload_block", task.compression->block);
    id.set("error_feedback", task.compression->error_feedback);
  }
  id.set("device", task.device);
  id.set("communicator", likely);
  id.set("ranks", int64_t{spec.ranks});
  id.set("threads", int64_t{spec.threads});
}

std::unique_ptr<CaseSpec> read_collective(const Params& params, const LaunchInfo& launch, const Registry&) {
  const size_t before = params.problems()->items().size();
  auto spec = std::make_unique<CollectiveSpec>();
  CollectiveTask& task = spec->task;
  task.collective = find_collective(params.string(collective_key()));
  const int64_t asked = params.integer(kMessageBytes);
  const std::string dtype = params.string(kDtype);
  task.dtype = dtype_of(dtype);
  task.in_place = params.boolean(kInPlace);
  task.graph = params.boolean(kGraph);
  read_compression(params, task);
  const Placement placement = read_movers(params, launch);
  if (task.collective == nullptr || params.problems()->items().size() != before) return nullptr;
  task.communicator = placement.communicator;
  task.device = placement.device;
  task.threads = spec->threads = placement.threads;
  spec->ranks = placement.ranks;
  task.sizes = task.collective->sizes(asked / dtype_bytes(task.dtype), spec->ranks);

  spec->forward = false;
  spec->pointer = params.pointer();
  spec->skip_reason = why_skipped(task, spec->ranks, launch);
  std::string payload;
  if (task.compression)
    payload = fmt::format("-{}-b{}{}", to_string(task.compression->payload), task.compression->block,
                          task.compression->error_feedback ? "-ef" : "");
  spec->name = fmt::format("collective/{}/{}B/{}{}/{}-{}/{}/p{}t{}{}", task.collective->name, asked, dtype,
                           payload, task.device, task.communicator, task.in_place ? "in" : "out", spec->ranks,
                           spec->threads, task.device != "cpu" && !task.graph ? "/nograph" : "");
  // Sizes and communicators of one collective are timed among each other: the network's α and β come from
  // them.
  spec->weights_group = fmt::format("collective {} p{}", task.device, spec->ranks);
  spec->packed_group =
      fmt::format("{} {} {} t{}", spec->weights_group, task.collective->name, dtype, spec->threads);
  spec->group = spec->packed_group;
  const int64_t bytes = task.sizes.message * dtype_bytes(task.dtype);
  spec->tokens = spec->max_tokens = std::max<int64_t>(bytes, 1);
  // Both buffers, one more while checking, and a compressed call's images.
  const int64_t host = task.device == "cpu" ? 3 : 1;
  spec->passing_bytes = (host + (task.compression ? 4 : 0)) * bytes;
  spec->stated_bytes = std::max<int64_t>(spec->passing_bytes, 1);
  if (task.compression) spec->own_bytes = 4 * bytes / (task.compression->error_feedback ? 1 : 2);
  spec->estimated_step_s = 1e-6 + static_cast<double>(bytes) / kNominalBandwidth;
  spec->estimated_compress_s =
      kCheckSeconds * static_cast<double>(task.sizes.out * spec->ranks) / spec->threads;
  const TransportType* likely = find_transport(task.communicator, task.device);
  fill_identity(*spec, params,
                spec->ranks == 1 && task.communicator == "auto" ? "self"
                : likely != nullptr                             ? likely->name
                                                                : task.communicator);
  return spec;
}

}  // namespace

WorkloadType collective_workload() {
  WorkloadType type;
  type.name = "collective";
  type.help = "one collective of one size, plain or compressed";
  type.keys = {collective_key(), kMessageBytes, kDtype,         kInPlace,
               kPayload,         kPayloadBlock, kErrorFeedback, kGraph};
  type.keys.insert(type.keys.end(), mover_keys().begin(), mover_keys().end());
  type.read = read_collective;
  return type;
}

}  // namespace lamina

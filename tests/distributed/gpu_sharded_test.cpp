// Layers cut over GPUs: right for every scheme that has a kernel there, every shard and communicator, with
// and without overlap, directly and as a graph. Skipped, saying so, where ranks have no GPUs of their own.
#include <gtest/gtest.h>

#include <algorithm>

#include "distributed/check.hpp"
#include "distributed/sharded_layer.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::registry;
using test::world;

struct Made {
  std::string name;
  std::unique_ptr<Transport> transport;
};

const std::vector<Made>& movers(std::string* why) {
  static std::string reason;
  static const std::vector<Made>& all = *new auto([] {
    std::vector<Made> made;
    for (const char* name : {"nccl", "nccl-oneshot", "mpi"}) {
      try {
        made.push_back({name, make_transport(name, "cuda", world())});
      } catch (const AgreedError& e) {
        reason += std::string(e.what()) + "; ";
      }
    }
    // Ranks that share a GPU may still move data by way of the host: not what is tested here.
    if (!reason.empty()) made.clear();
    return made;
  }());
  *why = reason;
  return all;
}

// A way to cut a layer over ranks, by which communicators.
struct Way {
  std::string name;
  ShardedOptions options;
  std::vector<std::string> by;
};

const std::vector<Way>& ways() {
  static const std::vector<std::string> all = {"nccl", "nccl-oneshot", "mpi"},
                                        gpus = {"nccl", "nccl-oneshot"}, one = {"nccl"};
  static const std::vector<Way> list = {
      {"none", {.shard = Shard::none}, one},
      {"column", {.shard = Shard::column}, one},
      {"row", {.shard = Shard::row}, all},
      {"row o3", {.shard = Shard::row, .overlap = 3}, gpus},
      {"row o2", {.shard = Shard::row, .overlap = 2}, one},
      {"row bf16", {.shard = Shard::row, .bf16_sums = true}, all},
      {"row bf16 o3", {.shard = Shard::row, .overlap = 3, .bf16_sums = true}, gpus},
      {"sequence, column", {.shard = Shard::column, .sequence = true}, all},
      {"sequence, row", {.shard = Shard::row, .sequence = true}, all},
      {"sequence, row bf16", {.shard = Shard::row, .sequence = true, .bf16_sums = true}, gpus}};
  return list;
}

// Checked, and once more as a graph: the same numbers, and parts that run alone. False: no kernel takes it.
void expect_right(const test::SchemeCase& from, Shape shape, int64_t tokens, const Way& way, Transport& mover,
                  int& checked) {
  Device& device = *find_device("cuda");
  const std::unique_ptr<Communicator> comm =
      way.options.shard == Shard::none ? make_self_communicator() : world().subset(world().size());
  const OriginalWeights original = load_weights(
      test::MatrixSource(test::random_matrix(shape.out_features, shape.in_features, 3)), *comm, 1);
  const std::unique_ptr<Scheme> scheme = test::make_scheme(from, shape, registry());
  const CompressedWeights weights = compress(*scheme, original, *comm, 5);
  ShardedOptions options = way.options;
  options.device = "cuda";
  options.max_tokens = tokens;
  options.transport = &mover;
  std::unique_ptr<ShardedLayer> layer;
  try {
    layer = std::make_unique<ShardedLayer>(weights, options, registry(), *comm);
  } catch (const NoKernelError&) {
    return;
  }
  layer->replicate(2);
  Stream stream = device.stream(1);
  const Matrix<float> x = test::random_matrix(tokens, shape.in_features, 9);
  const CheckResult result = check_layer(*layer, x, stream, 17);
  const std::string what =
      scheme->name() + ", " + way.name + ", " + mover.name() + ", " + std::to_string(tokens) + " tokens";
  ASSERT_TRUE(result.passed) << what << ": " << result.error << " > " << result.tolerance << " at "
                             << result.where;
  ++checked;
  if (layer->transport() != nullptr && !layer->transport()->capturable()) return;
  const Matrix<float> local = local_input(*layer, x, {0, tokens});
  const Buffer in =
      place_activations(device, local.data.data(), local.rows * local.cols, layer->input_type());
  const InputType type = layer->output_type();
  const int64_t held = layer->out_rows(tokens) * layer->local_out();
  Buffer direct = device.allocate(held * bytes_of(type)), replayed = device.allocate(held * bytes_of(type));
  const auto forward = [&](int copy, Buffer& y, Part part) {
    layer->forward(copy, in.as<float>(), y.as<float>(), tokens, stream, part);
  };
  forward(1, direct, Part::all);
  const auto replay = device.capture(stream, [&] { forward(1, replayed, Part::all); });
  replay->run(3);
  // Rows beyond this rank's tokens are nobody's.
  const int64_t count = (layer->scatters() ? layer->own_tokens(tokens).size() : tokens) * layer->local_out();
  ASSERT_TRUE(fetch_activations(device, direct.data(), count, type) ==
              fetch_activations(device, replayed.data(), count, type))
      << what;
  for (const Part part : {Part::compute, Part::communicate}) {
    forward(0, direct, part);
    device.synchronize();
  }
}

TEST(GpuSharded, EverySchemeShardAndCommunicatorIsRight) {
  std::string why;
  const std::vector<Made>& transports = movers(&why);
  if (transports.empty()) GTEST_SKIP() << "no GPU for each rank: " << why;
  int checked = 0;
  for (const Way& way : ways())
    for (const Made& mover : transports) {
      if (std::find(way.by.begin(), way.by.end(), mover.name) == way.by.end()) continue;
      for (const test::SchemeCase& each : test::scheme_cases()) {
        if (!registry().find_scheme(each.type)) continue;
        for (const int64_t tokens : {1, 5, 21})
          ASSERT_NO_FATAL_FAILURE(expect_right(each, {136, 192}, tokens, way, *mover.transport, checked));
      }
      // Many columns, whose products libraries cut.
      const test::SchemeCase dense{"dense", {{"dtype", std::string("bf16")}}};
      ASSERT_NO_FATAL_FAILURE(expect_right(dense, {136, 16384}, 21, way, *mover.transport, checked));
    }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace lamina

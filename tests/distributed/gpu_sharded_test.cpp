// Layers cut over GPUs: right for every scheme that has a kernel there, every shard and communicator, with
// and without overlap, directly and as a graph. Skipped, saying so, where ranks have no GPUs of their own.
#include <gtest/gtest.h>

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

TEST(GpuSharded, EverySchemeShardAndCommunicatorIsRight) {
  std::string why;
  const std::vector<Made>& transports = movers(&why);
  if (transports.empty()) GTEST_SKIP() << "no GPU for each rank: " << why;
  Device& device = *find_device("cuda");
  int checked = 0;
  for (const test::SchemeCase& each : test::scheme_cases()) {
    if (!registry().find_scheme(each.type)) continue;
    for (const Shard shard : {Shard::none, Shard::column, Shard::row})
      for (const Made& mover : transports)
        for (const int overlap : {1, 3}) {
          if (shard != Shard::row && (overlap > 1 || &mover != &transports.front())) continue;
          const std::unique_ptr<Communicator> comm =
              shard == Shard::none ? make_self_communicator() : world().subset(world().size());
          const Shape shape{136, 192};
          const OriginalWeights original = load_weights(
              test::MatrixSource(test::random_matrix(shape.out_features, shape.in_features, 3)), *comm, 1);
          const std::unique_ptr<Scheme> scheme = test::make_scheme(each, shape, registry());
          const CompressedWeights weights = compress(*scheme, original, *comm, 5);
          for (const int64_t tokens : {1, 5, 21}) {
            const ShardedOptions options{.shard = shard,
                                         .device = "cuda",
                                         .max_tokens = tokens,
                                         .overlap = overlap,
                                         .transport = mover.transport.get()};
            std::unique_ptr<ShardedLayer> layer;
            try {
              layer = std::make_unique<ShardedLayer>(weights, options, registry(), *comm);
            } catch (const NoKernelError&) {
              continue;  // no kernel for GPUs takes it
            }
            layer->replicate(2);
            Stream stream = device.stream(1);
            const Matrix<float> x = test::random_matrix(tokens, shape.in_features, 9);
            const CheckResult result = check_layer(*layer, x, stream, 17);
            const std::string what = scheme->name() + ", " + to_string(shard) + ", " + mover.name +
                                     ", overlap " + std::to_string(overlap) + ", " + std::to_string(tokens) +
                                     " tokens";
            ASSERT_TRUE(result.passed)
                << what << ": " << result.error << " > " << result.tolerance << " at " << result.where;
            ++checked;
            if (layer->transport() != nullptr && !layer->transport()->capturable()) continue;
            // As a graph, the same numbers.
            const Range cols = layer->local_cols();
            std::vector<float> local;
            for (int64_t t = 0; t < tokens; ++t)
              local.insert(local.end(), x.row(t) + cols.begin, x.row(t) + cols.end);
            const Buffer in =
                place_activations(device, local.data(), tokens * cols.size(), layer->input_type());
            const int64_t count = tokens * layer->local_out();
            Buffer direct = device.allocate(4 * count), replayed = device.allocate(4 * count);
            layer->forward(1, in.as<float>(), direct.as<float>(), tokens, stream);
            const auto replay = device.capture(
                stream, [&] { layer->forward(1, in.as<float>(), replayed.as<float>(), tokens, stream); });
            replay->run(3);
            std::vector<float> a(static_cast<size_t>(count)), b(a);
            device.synchronize();
            device.download(a.data(), direct.data(), 4 * count);
            device.download(b.data(), replayed.data(), 4 * count);
            ASSERT_TRUE(a == b) << what;
            // Its parts alone: finite.
            for (const Part part : {Part::compute, Part::communicate}) {
              layer->forward(0, in.as<float>(), direct.as<float>(), tokens, stream, part);
              device.synchronize();
            }
          }
        }
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace lamina

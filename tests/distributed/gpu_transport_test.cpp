// Every transport of GPUs' memory, as tests/distributed/transport_test.cpp has them of the host's; and,
// without any GPU, what follows from which rank has which. Skipped, saying so, where ranks have no GPUs of
// their own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "distributed/collectives/combine.hpp"
#include "distributed/gpu_places.hpp"
#include "distributed/svd.hpp"
#include "distributed/transport.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/small_floats.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;
using Bytes = std::vector<std::byte>;

// Every transport that can be set up here, one-shot in each of its ways; why not, where there is none.
std::vector<std::unique_ptr<Transport>> gpu_transports(std::string& why) {
  std::vector<std::unique_ptr<Transport>> all;
  const auto make = [&](const TransportType& type) {
    try {
      all.push_back(type.make(world(), {}));
    } catch (const AgreedError& e) {
      why += std::string(e.what()) + "; ";
    }
  };
  for (const TransportType& type : transports()) {
    if (type.device != "cuda") continue;
    if (!type.absent.empty()) {
      why += type.name + ": " + type.absent + "; ";
      continue;
    }
    if (type.name != "nccl-oneshot") {
      make(type);
      continue;
    }
    for (const char* way : {"one-shot", "two-shots", "nccl"}) {
      setenv("LAMINA_ALL_REDUCE", way, 1);
      make(type);
    }
    unsetenv("LAMINA_ALL_REDUCE");
    make(type);
  }
  return all;
}

class GpuTransport : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    static std::vector<std::unique_ptr<Transport>>& made = *new auto(gpu_transports(why));
    static const std::string& reason = *new std::string(why);
    all = &made;
    if (made.empty()) GTEST_SKIP() << "no transport of GPUs' memory here: " << reason;
    device = find_device("cuda");
    stream = device->stream(1);
  }

  Buffer placed(const Bytes& bytes) {
    Buffer buffer = device->allocate(std::max<int64_t>(static_cast<int64_t>(bytes.size()), 16));
    device->upload(buffer.data(), bytes.data(), static_cast<int64_t>(bytes.size()));
    return buffer;
  }
  Bytes fetched(const void* from, size_t bytes) {
    device->synchronize();
    Bytes all_bytes(bytes);
    device->download(all_bytes.data(), from, static_cast<int64_t>(bytes));
    return all_bytes;
  }

  std::vector<std::unique_ptr<Transport>>* all = nullptr;
  Device* device = nullptr;
  Stream stream;
};

// Whole numbers whose sums are exact in every type, negative zeros among them.
Bytes whole_numbers(int rank, int64_t count, DType dtype) {
  Bytes data(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    float value = static_cast<float>((i * 7 + rank * 3) % 11 - 5);
    if (value == 0) value = -0.0f;
    if (dtype == DType::f32) reinterpret_cast<float*>(data.data())[i] = value;
    if (dtype == DType::bf16) reinterpret_cast<uint16_t*>(data.data())[i] = bf16_of_float(value);
    if (dtype == DType::f16) reinterpret_cast<uint16_t*>(data.data())[i] = f16_of_float(value);
    if (dtype == DType::i8) reinterpret_cast<int8_t*>(data.data())[i] = static_cast<int8_t>(value);
  }
  return data;
}

// Numbers whose sums depend on the order and on rounding.
Bytes random_numbers(int rank, int64_t count, DType dtype) {
  Bytes data(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const float value = test::number(static_cast<uint64_t>(rank) + 1, i, 3) * static_cast<float>(1 + i % 100);
    if (dtype == DType::f32) reinterpret_cast<float*>(data.data())[i] = value;
    if (dtype == DType::bf16) reinterpret_cast<uint16_t*>(data.data())[i] = bf16_of_float(value);
    if (dtype == DType::f16) reinterpret_cast<uint16_t*>(data.data())[i] = f16_of_float(value);
  }
  return data;
}

Bytes sums_of(Bytes (*numbers)(int, int64_t, DType), int64_t count, DType dtype) {
  std::vector<Bytes> parts;
  std::vector<const void*> in;
  for (int r = 0; r < world().size(); ++r) parts.push_back(numbers(r, count, dtype));
  for (const Bytes& part : parts) in.push_back(part.data());
  Bytes sum(parts[0].size());
  combine(in.data(), world().size(), sum.data(), count, dtype, ReduceOp::sum);
  return sum;
}

double value_at(const Bytes& bytes, DType dtype, int64_t i) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(bytes.data())[i];
  if (dtype == DType::bf16) return float_of_bf16(reinterpret_cast<const uint16_t*>(bytes.data())[i]);
  if (dtype == DType::f16) return float_of_f16(reinterpret_cast<const uint16_t*>(bytes.data())[i]);
  return reinterpret_cast<const int8_t*>(bytes.data())[i];
}

const std::vector<int64_t> kCounts = {0, 1, 3, 4, 5, 63, 64, 65, 1000, 4097, 70'001, 1'000'003, 3'333'333};

TEST_F(GpuTransport, ReducesEveryTypeAndSize) {
  for (const auto& transport : *all)
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8})
      for (const int64_t count : kCounts) {
        if (count * dtype_bytes(dtype) > 7'000'000) continue;
        const Bytes in = whole_numbers(world().rank(), count, dtype);
        const Bytes expected = sums_of(whole_numbers, count, dtype);
        const Buffer from = placed(in);
        Buffer to = placed(Bytes(in.size(), std::byte{0x55}));
        transport->all_reduce(from.data(), to.data(), count, dtype, ReduceOp::sum, stream);
        const Bytes out = fetched(to.data(), in.size());
        Buffer both = placed(in);
        transport->all_reduce(both.data(), both.data(), count, dtype, ReduceOp::sum, stream);
        const Bytes in_place = fetched(both.data(), in.size());
        for (int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(value_at(out, dtype, i), value_at(expected, dtype, i))
              << transport->name() << ", type " << int(dtype) << ", " << i << " of " << count;
          ASSERT_EQ(value_at(in_place, dtype, i), value_at(expected, dtype, i))
              << transport->name() << " in place, type " << int(dtype) << ", " << i << " of " << count;
        }
      }
}

// Ours add up in rank order and round once, as combine() does: the same bits on every rank.
TEST_F(GpuTransport, SumsAreTheSameBitsOnEveryRank) {
  for (const auto& transport : *all) {
    if (transport->name() == "mpi-staged") continue;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const int64_t count : {5, 4097, 70'001}) {
        const Buffer from = placed(random_numbers(world().rank(), count, dtype));
        Buffer to = placed(Bytes(static_cast<size_t>(count * dtype_bytes(dtype)), std::byte{0x55}));
        transport->all_reduce(from.data(), to.data(), count, dtype, ReduceOp::sum, stream);
        const Bytes out = fetched(to.data(), static_cast<size_t>(count * dtype_bytes(dtype)));
        Bytes first = out;
        world().broadcast(first.data(), static_cast<int64_t>(first.size()), 0);
        ASSERT_TRUE(out == first) << transport->name() << ", type " << int(dtype) << ", " << count;
        const Bytes expected = sums_of(random_numbers, count, dtype);
        const double tolerance = dtype == DType::f32 ? 1e-4 : dtype == DType::f16 ? 0.6 : 5;
        for (int64_t i = 0; i < count; ++i)
          ASSERT_NEAR(value_at(out, dtype, i), value_at(expected, dtype, i), tolerance) << transport->name();
      }
  }
}

TEST_F(GpuTransport, TakesNumbersAtAnyPlace) {
  for (const auto& transport : *all)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const int64_t count = 4001;
      const auto shift = static_cast<size_t>(dtype_bytes(dtype));
      Bytes in = whole_numbers(world().rank(), count, dtype);
      const Bytes expected = sums_of(whole_numbers, count, dtype);
      in.insert(in.begin(), shift, std::byte{0x11});
      const Buffer from = placed(in);
      Buffer to = placed(Bytes(in.size() + 64, std::byte{0x55}));
      transport->all_reduce(from.data() + shift, to.data() + shift, count, dtype, ReduceOp::sum, stream);
      const Bytes out = fetched(to.data(), in.size() + 64);
      EXPECT_EQ(out[0], std::byte{0x55});
      for (size_t i = in.size(); i < out.size(); ++i) ASSERT_EQ(out[i], std::byte{0x55}) << transport->name();
      const Bytes sums(out.begin() + static_cast<int64_t>(shift), out.end());
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(value_at(sums, dtype, i), value_at(expected, dtype, i)) << transport->name();
    }
}

// Many calls of different sizes in one graph, run again and again: nothing of one call is met by another.
TEST_F(GpuTransport, KeepsCallsOfAGraphApart) {
  const int64_t most = 100'000;
  for (const auto& transport : *all) {
    if (!transport->capturable()) continue;
    Buffer numbers = placed(Bytes(4 * most)), sums = placed(Bytes(4 * most));
    std::vector<float> in(static_cast<size_t>(most));
    const auto replay = device->capture(stream, [&] {
      uint64_t random = 5;
      for (int call = 0; call < 60; ++call) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const int64_t count = 1 + static_cast<int64_t>(random >> 40) % (call % 9 == 0 ? most : 2000);
        transport->all_reduce(numbers.data(), sums.data(), count, DType::f32, ReduceOp::sum, stream);
      }
      transport->all_reduce(numbers.data(), sums.data(), most, DType::f32, ReduceOp::sum, stream);
    });
    for (int round = 0; round < 50; ++round) {
      for (int64_t i = 0; i < most; ++i)
        in[static_cast<size_t>(i)] = static_cast<float>((i + round) % 1000 + world().rank() * round);
      device->upload(numbers.data(), in.data(), 4 * most);
      replay->run(round % 3 + 1);
      const Bytes out = fetched(sums.data(), static_cast<size_t>(4 * most));
      for (int64_t i = 0; i < most; ++i) {
        float expected = 0;
        for (int r = 0; r < world().size(); ++r)
          expected += static_cast<float>((i + round) % 1000 + r * round);
        ASSERT_EQ(value_at(out, DType::f32, i), expected)
            << transport->name() << ", round " << round << ", number " << i;
      }
    }
  }
}

// As where a rank never comes through: NCCL is given up before it can be ready, on every rank, and nothing of
// that is in the way of the next one. tests/distributed/set_up_test.cpp has the rest, without a GPU.
TEST_F(GpuTransport, NcclGivesUpInTimeAndCanBeSetUpAgain) {
  const TransportType* nccl = find_transport("nccl", "cuda");
  if (nccl == nullptr || !nccl->absent.empty()) GTEST_SKIP() << "no NCCL here";
  try {
    nccl->make(world(), {.timeout_seconds = 0});
    GTEST_SKIP() << "NCCL was ready before it could be asked";
  } catch (const AgreedError& e) {
    EXPECT_NE(std::string(e.what()).find("not set up within 0 s"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("NCCL_DEBUG=INFO"), std::string::npos) << e.what();
  }
  const std::unique_ptr<Transport> again = nccl->make(world(), {});
  const Bytes own = whole_numbers(world().rank(), 1000, DType::f32);
  const Buffer in = placed(own);
  Buffer out = placed(Bytes(own.size()));
  again->all_reduce(in.data(), out.data(), 1000, DType::f32, ReduceOp::sum, stream);
  EXPECT_TRUE(fetched(out.data(), own.size()) == sums_of(whole_numbers, 1000, DType::f32));
}

TEST_F(GpuTransport, MovesBytesOfAnySize) {
  const int ranks = world().size(), rank = world().rank();
  const auto bytes_of = [](int of, int64_t count) {
    Bytes data(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      data[static_cast<size_t>(i)] = static_cast<std::byte>(i * 31 + of * 101 + i / 256);
    return data;
  };
  for (const auto& transport : *all)
    for (const int64_t bytes : {0, 1, 47, 64, 4097, 300'007}) {
      const auto size = static_cast<size_t>(bytes);
      const std::string what = transport->name() + " " + std::to_string(bytes);
      Bytes whole, send, exchanged;
      for (int r = 0; r < ranks; ++r) {
        const Bytes part = bytes_of(r, bytes), to = bytes_of(10 * rank + r, bytes),
                    from = bytes_of(10 * r + rank, bytes);
        whole.insert(whole.end(), part.begin(), part.end());
        send.insert(send.end(), to.begin(), to.end());
        exchanged.insert(exchanged.end(), from.begin(), from.end());
      }
      const Buffer own = placed(bytes_of(rank, bytes)), parts = placed(send);
      Buffer out = placed(Bytes(whole.size(), std::byte{0x55}));
      transport->all_gather(own.data(), out.data(), bytes, stream);
      ASSERT_TRUE(fetched(out.data(), whole.size()) == whole) << what << " all_gather";
      transport->all_to_all(parts.data(), out.data(), bytes, stream);
      ASSERT_TRUE(fetched(out.data(), whole.size()) == exchanged) << what << " all_to_all";
      transport->send_recv(own.data(), out.data(), bytes, stream);
      ASSERT_TRUE(fetched(out.data(), size) == bytes_of((rank + ranks - 1) % ranks, bytes)) << what;
      for (int root = 0; root < ranks; ++root) {
        transport->broadcast(own.data(), out.data(), bytes, root, stream);
        ASSERT_TRUE(fetched(out.data(), size) == bytes_of(root, bytes)) << what << " broadcast";
      }
    }
}

TEST_F(GpuTransport, ScattersSums) {
  const int ranks = world().size(), rank = world().rank();
  for (const auto& transport : *all)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int64_t count : {1, 5, 4097}) {
        const auto part = static_cast<size_t>(count * dtype_bytes(dtype));
        const Bytes in = whole_numbers(rank, count * ranks, dtype);
        const Bytes whole = sums_of(whole_numbers, count * ranks, dtype);
        Buffer from = placed(in);
        Buffer to = placed(Bytes(part, std::byte{0x55}));
        transport->reduce_scatter(from.data(), to.data(), count, dtype, ReduceOp::sum, stream);
        const Bytes out = fetched(to.data(), part);
        for (int64_t i = 0; i < count; ++i)
          ASSERT_EQ(value_at(out, dtype, i), value_at(whole, dtype, rank * count + i)) << transport->name();
      }
}

TEST(GpuPlaces, NameRanksThatShareAGpu) {
  EXPECT_EQ(shared_gpus({{"a", "0:17"}, {"a", "0:18"}, {"b", "0:17"}}), "");
  const std::string shared = shared_gpus({{"a", "0:17"}, {"a", "0:18"}, {"a", "0:17"}, {"b", "0:18"}});
  EXPECT_NE(shared.find("ranks 0, 2 share GPU 0:17 of a"), std::string::npos) << shared;
  EXPECT_NE(shared.find("1: 0:18"), std::string::npos) << shared;
  EXPECT_EQ(shared.find("of b"), std::string::npos) << shared;
  // Of the launch itself.
  const auto places = gather_gpu_places({"host", std::to_string(world().rank() / 2)}, world());
  ASSERT_EQ(static_cast<int>(places.size()), world().size());
  EXPECT_EQ(shared_gpus(places).empty(), world().size() == 1);
}

// Machines that are not here: one and two nodes of 4 and 8 GPUs.
TEST(GpuPlaces, OfNodesOfFourAndEight) {
  const auto launch = [](int nodes, int gpus, int ranks_per_node) {
    std::vector<GpuPlace> places;
    for (int node = 0; node < nodes; ++node)
      for (int local = 0; local < ranks_per_node; ++local)
        places.push_back({"node" + std::to_string(node), "0:" + std::to_string(local % gpus)});
    return shared_gpus(places);
  };
  for (const int gpus : {4, 8}) {
    for (const int nodes : {1, 2}) {
      EXPECT_EQ(launch(nodes, gpus, gpus), "") << nodes << " × " << gpus;
      EXPECT_EQ(launch(nodes, gpus, gpus - 1), "") << nodes << " × " << gpus;
      const std::string one_more = launch(nodes, gpus, gpus + 1);
      EXPECT_NE(one_more.find("ranks 0, " + std::to_string(gpus) + " share GPU 0:0 of node0"),
                std::string::npos)
          << one_more;
      EXPECT_EQ(one_more.find("GPU 0:1 of"), std::string::npos) << one_more;
      EXPECT_EQ(one_more.find("of node1") != std::string::npos, nodes > 1) << one_more;
    }
  }
  // Every part of a matrix is somewhere, and no GPU of eight needs more than one of four.
  const Shape shape{8192, 28672};
  for (const char* method : {"gram", "randomized"}) {
    const SvdMethod& svd = *find_svd_method(method);
    EXPECT_LT(svd.gpu_bytes(shape, 1024, 4, {}), svd.gpu_bytes(shape, 1024, 2, {})) << method;
    EXPECT_LE(svd.gpu_bytes(shape, 1024, 8, {}), svd.gpu_bytes(shape, 1024, 4, {})) << method;
    EXPECT_GT(svd.gpu_bytes(shape, 1024, 64, {}), 0) << method;
  }
}

TEST(AllReduceWays, FollowWhatWasMeasured) {
  const std::vector<AllReduceTimes> times = {{1024, 6, 3, 4}, {65536, 9, 6, 5}, {1 << 20, 14, 20, 13.9}};
  EXPECT_EQ(way_of(times, 8), AllReduceWay::one_shot);
  EXPECT_EQ(way_of(times, 1024), AllReduceWay::one_shot);
  EXPECT_EQ(way_of(times, 1025), AllReduceWay::two_shots);
  EXPECT_EQ(way_of(times, 1 << 20), AllReduceWay::nccl);  // within the noise
  EXPECT_EQ(way_of(times, (1 << 20) + 1), AllReduceWay::nccl);
  EXPECT_EQ(way_of({}, 8), AllReduceWay::nccl);
  EXPECT_EQ(way_of({{1024, 6, 0, 0}}, 8), AllReduceWay::nccl);
}

}  // namespace
}  // namespace lamina

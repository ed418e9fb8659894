// Every collective of every transport of the host's memory, against sums and copies made here.
#include "distributed/transport.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "distributed/collectives/combine.hpp"
#include "kernels/small_floats.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

std::vector<std::unique_ptr<Transport>> all_transports() {
  std::vector<std::unique_ptr<Transport>> all;
  for (const TransportType& type : transports()) {
    if (type.device != "cpu" || !type.absent.empty() || (type.name == "self" && world().size() > 1)) continue;
    all.push_back(make_transport(type.name, "cpu", world()));
  }
  // As if so many ranks made a node: of 4 ranks two and two, three and one, and each alone.
  for (const int ranks_per_node : {1, 2, 3})
    if (ranks_per_node < world().size())
      all.push_back(make_transport("mpi-shm", "cpu", world(), {.ranks_per_node = ranks_per_node}));
  return all;
}

// Small whole numbers: exact in every type, their sums too. Integers that overflow are each library's own
// affair: Open MPI's sums of bytes saturate where it uses vector instructions.
double value_of(int rank, int64_t i, DType dtype) {
  return static_cast<double>((i * 7 + rank * 3) % 11) - (dtype == DType::u8 ? 0 : 5);
}

void put(std::byte* data, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::f32:
      reinterpret_cast<float*>(data)[i] = static_cast<float>(value);
      return;
    case DType::f64:
      reinterpret_cast<double*>(data)[i] = value;
      return;
    case DType::f16:
      reinterpret_cast<uint16_t*>(data)[i] = f16_of_float(static_cast<float>(value));
      return;
    case DType::bf16:
      reinterpret_cast<uint16_t*>(data)[i] = bf16_of_float(static_cast<float>(value));
      return;
    case DType::i8:
      reinterpret_cast<int8_t*>(data)[i] = static_cast<int8_t>(value);
      return;
    case DType::i32:
      reinterpret_cast<int32_t*>(data)[i] = static_cast<int32_t>(value);
      return;
    case DType::i64:
      reinterpret_cast<int64_t*>(data)[i] = static_cast<int64_t>(value);
      return;
    case DType::u8:
      reinterpret_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(static_cast<int>(value));
      return;
  }
}

std::vector<std::byte> numbers(int rank, int64_t count, DType dtype) {
  std::vector<std::byte> data(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) put(data.data(), dtype, i, value_of(rank, i, dtype));
  return data;
}

std::vector<std::byte> reduced(int64_t count, DType dtype, ReduceOp op) {
  std::vector<std::byte> data(static_cast<size_t>(count * dtype_bytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    double result = value_of(0, i, dtype);
    for (int r = 1; r < world().size(); ++r) {
      const double next = value_of(r, i, dtype);
      result = op == ReduceOp::sum   ? result + next
               : op == ReduceOp::max ? std::max(result, next)
                                     : std::min(result, next);
    }
    put(data.data(), dtype, i, result);
  }
  return data;
}

std::vector<std::byte> bytes_of(int rank, int64_t count) {
  std::vector<std::byte> data(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    data[static_cast<size_t>(i)] = static_cast<std::byte>(i * 31 + rank * 101 + i / 256);
  return data;
}

// Odd ones, one past what fits a cache line, and several times any window.
const std::vector<int64_t> kCounts = {0, 1, 3, 12, 13, 14, 63, 64, 65, 1000, 4097, 70'001, 1'000'003};
const std::vector<DType> kTypes = {DType::f32, DType::f64, DType::f16, DType::bf16,
                                   DType::i8,  DType::i32, DType::i64, DType::u8};

void expect_reduces(Transport& transport, int64_t count, DType dtype, ReduceOp op) {
  Stream stream;
  std::vector<std::byte> in = numbers(world().rank(), count, dtype), out(in.size(), std::byte{0x55});
  const auto expected = reduced(count, dtype, op);
  transport.all_reduce(in.data(), out.data(), count, dtype, op, stream);
  ASSERT_TRUE(out == expected) << transport.name() << " " << count << " type " << int(dtype);
  transport.all_reduce(in.data(), in.data(), count, dtype, op, stream);
  ASSERT_TRUE(in == expected) << transport.name() << " in place " << count << " type " << int(dtype);
}

void expect_scatters(Transport& transport, int64_t count, DType dtype) {
  Stream stream;
  const int ranks = world().size(), rank = world().rank();
  const size_t part = static_cast<size_t>(count * dtype_bytes(dtype));
  const std::vector<std::byte> in = numbers(rank, count * ranks, dtype);
  const auto whole = reduced(count * ranks, dtype, ReduceOp::sum);
  const std::vector<std::byte> expected(whole.begin() + static_cast<int64_t>(part) * rank,
                                        whole.begin() + static_cast<int64_t>(part) * (rank + 1));
  std::vector<std::byte> out(part, std::byte{0x55}), in_place = in;
  transport.reduce_scatter(in.data(), out.data(), count, dtype, ReduceOp::sum, stream);
  ASSERT_TRUE(out == expected) << transport.name() << " " << count << " type " << int(dtype);
  std::byte* own = in_place.data() + part * static_cast<size_t>(rank);
  transport.reduce_scatter(in_place.data(), own, count, dtype, ReduceOp::sum, stream);
  ASSERT_TRUE(std::equal(expected.begin(), expected.end(), own)) << transport.name() << " in place " << count;
}

TEST(Transport, ReducesEveryTypeAndSize) {
  for (const auto& transport : all_transports())
    for (const DType dtype : kTypes)
      for (const int64_t count : kCounts)
        for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
          if (op != ReduceOp::sum && count > 5000) continue;
          ASSERT_NO_FATAL_FAILURE(expect_reduces(*transport, count, dtype, op));
        }
}

TEST(Transport, ScattersSumsInBothForms) {
  for (const auto& transport : all_transports())
    for (const DType dtype : kTypes)
      for (const int64_t count : kCounts) {
        if (dtype != DType::f32 && count > 5000) continue;
        ASSERT_NO_FATAL_FAILURE(expect_scatters(*transport, count, dtype));
      }
}

// Slots of 1 and 16 KiB: chunks of other sizes than the usual, which of halves go another way.
TEST(Transport, SumsThroughSmallWindows) {
  if (find_transport("mpi-shm", "cpu") == nullptr || !find_transport("mpi-shm", "cpu")->absent.empty())
    GTEST_SKIP() << "no mpi-shm";
  const char* const usual = std::getenv("LAMINA_SHM_WINDOW_KIB");
  const std::string kept = usual == nullptr ? "" : usual;
  for (const char* kib : {"4", "64"}) {
    world().trim();  // a window is as large as it was when it was made
    setenv("LAMINA_SHM_WINDOW_KIB", kib, 1);
    {
      const auto transport = make_transport("mpi-shm", "cpu", world());
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const int64_t count : {1, 25, 511, 512, 513, 2048, 4097, 8191, 8192, 16'385, 70'001}) {
          ASSERT_NO_FATAL_FAILURE(expect_reduces(*transport, count, dtype, ReduceOp::sum)) << kib << " KiB";
          ASSERT_NO_FATAL_FAILURE(expect_scatters(*transport, count, dtype)) << kib << " KiB";
        }
    }
    world().trim();
  }
  kept.empty() ? unsetenv("LAMINA_SHM_WINDOW_KIB") : setenv("LAMINA_SHM_WINDOW_KIB", kept.c_str(), 1);
}

TEST(Transport, MovesBytesOfAnySize) {
  Stream stream;
  const int ranks = world().size(), rank = world().rank();
  for (const auto& transport : all_transports())
    for (const int64_t bytes : {0, 1, 3, 47, 48, 49, 63, 64, 65, 4097, 280'001, 3'000'017}) {
      const auto size = static_cast<size_t>(bytes);
      const std::string what = transport->name() + " " + std::to_string(bytes);
      std::vector<std::byte> all, own = bytes_of(rank, bytes);
      for (int r = 0; r < ranks; ++r) {
        const auto part = bytes_of(r, bytes);
        all.insert(all.end(), part.begin(), part.end());
      }
      std::vector<std::byte> out(all.size(), std::byte{0x55});
      transport->all_gather(own.data(), out.data(), bytes, stream);
      ASSERT_TRUE(out == all) << what << " all_gather";
      out.assign(all.size(), std::byte{0x55});
      std::byte* place = out.data() + size * static_cast<size_t>(rank);
      std::copy(own.begin(), own.end(), place);
      transport->all_gather(place, out.data(), bytes, stream);
      ASSERT_TRUE(out == all) << what << " all_gather in place";

      for (int root = 0; root < ranks; ++root) {
        std::vector<std::byte> got(size, std::byte{0x55});
        transport->broadcast(own.data(), got.data(), bytes, root, stream);
        ASSERT_TRUE(got == bytes_of(root, bytes)) << what << " broadcast from " << root;
        got = own;
        transport->broadcast(got.data(), got.data(), bytes, root, stream);
        ASSERT_TRUE(got == bytes_of(root, bytes)) << what << " broadcast in place from " << root;
      }

      std::vector<std::byte> got(size, std::byte{0x55});
      transport->send_recv(own.data(), got.data(), bytes, stream);
      ASSERT_TRUE(got == bytes_of((rank + ranks - 1) % ranks, bytes)) << what << " send_recv";

      // Part `to` of rank `from` is what only that pair has.
      std::vector<std::byte> send, expected;
      for (int r = 0; r < ranks; ++r) {
        const auto to = bytes_of(10 * rank + r, bytes), from = bytes_of(10 * r + rank, bytes);
        send.insert(send.end(), to.begin(), to.end());
        expected.insert(expected.end(), from.begin(), from.end());
      }
      out.assign(all.size(), std::byte{0x55});
      transport->all_to_all(send.data(), out.data(), bytes, stream);
      ASSERT_TRUE(out == expected) << what << " all_to_all";
    }
}

// Sizes for which the first calls find out which way is the faster one, and the calls after those.
TEST(Transport, MovesTheSameBytesByEitherWay) {
  Stream stream;
  const int ranks = world().size(), rank = world().rank(), before = (rank + ranks - 1) % ranks;
  const auto size = static_cast<size_t>(100'000);
  int64_t most = 0;
  for (const auto& transport : all_transports()) {
    int64_t trials = 0;
    for (int call = 0; call < 36; ++call) {
      const auto value = [&](int of) { return static_cast<std::byte>(of * 40 + call); };
      const std::vector<std::byte> own(size * static_cast<size_t>(ranks), value(rank));
      std::vector<std::byte> all(own.size());
      for (int r = 0; r < ranks; ++r)
        std::fill_n(all.begin() + static_cast<int64_t>(size) * r, size, value(r));
      std::vector<std::byte> out(all.size());
      const std::string what = transport->name() + " call " + std::to_string(call);
      transport->all_gather(own.data(), out.data(), static_cast<int64_t>(size), stream);
      ASSERT_TRUE(out == all) << what << " all_gather";
      out.assign(all.size(), std::byte{0x55});
      transport->all_to_all(own.data(), out.data(), static_cast<int64_t>(size), stream);
      ASSERT_TRUE(out == all) << what << " all_to_all";
      out.assign(size, std::byte{0x55});
      transport->send_recv(own.data(), out.data(), static_cast<int64_t>(size), stream);
      ASSERT_TRUE(out == std::vector<std::byte>(size, value(before))) << what << " send_recv";
      transport->broadcast(own.data(), out.data(), static_cast<int64_t>(size), ranks - 1, stream);
      ASSERT_TRUE(out == std::vector<std::byte>(size, value(ranks - 1))) << what << " broadcast";
      if (call == 31) trials = transport->trials();
    }
    EXPECT_EQ(transport->trials(), trials) << transport->name();
    most = std::max(most, trials);
  }
  // All four kinds, in shared memory within the node.
  EXPECT_EQ(most, ranks > 1 ? 4 * 32 : 0);
}

// Shared memory goes when no transport has it any more, and comes again.
TEST(Transport, SharedMemoryIsFreedTogether) {
  Stream stream;
  for (int round = 0; round < 3; ++round) {
    auto kept = make_transport("auto", "cpu", world());
    for (int again = 0; again < 2; ++again) {
      float one = 1;
      kept->all_reduce(&one, &one, 1, DType::f32, ReduceOp::sum, stream);
      EXPECT_EQ(one, static_cast<float>(world().size()));
      world().trim();  // leaves alone what is in use
    }
    kept.reset();
    world().trim();
  }
}

// Calls of different kinds and sizes one after the other, at every rank's own pace.
TEST(Transport, KeepsCallsApart) {
  Stream stream;
  const int ranks = world().size(), rank = world().rank();
  for (const auto& transport : all_transports()) {
    uint64_t random = 1;
    for (int call = 0; call < 300; ++call) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      const int64_t count = static_cast<int64_t>(random >> 40) % (call % 7 == 0 ? 60'000 : 300);
      const int root = static_cast<int>(random >> 20 & 0xff) % ranks;
      std::vector<float> in(static_cast<size_t>(count), static_cast<float>(rank + call)), out(in.size());
      const auto expect = [&](float value, const char* what) {
        for (const float got : out)
          ASSERT_EQ(got, value) << transport->name() << " call " << call << " " << what;
      };
      if ((random >> 60) % 3 == 0) {
        transport->broadcast(in.data(), out.data(), 4 * count, root, stream);
        expect(static_cast<float>(root + call), "broadcast");
      } else if ((random >> 60) % 3 == 1) {
        transport->send_recv(in.data(), out.data(), 4 * count, stream);
        expect(static_cast<float>((rank + ranks - 1) % ranks + call), "send_recv");
      } else {
        transport->all_reduce(in.data(), out.data(), count, DType::f32, ReduceOp::sum, stream);
        expect(static_cast<float>(ranks * call + ranks * (ranks - 1) / 2), "all_reduce");
      }
    }
  }
}

TEST(Transport, IsFoundByNameAndDevice) {
  ASSERT_NE(find_transport("self", "cpu"), nullptr);
  EXPECT_EQ(find_transport("self", "cpu")->name, "self");
  EXPECT_EQ(find_transport("no such", "cpu"), nullptr);
  ASSERT_NE(find_transport("auto", "cpu"), nullptr);
  EXPECT_TRUE(find_transport("auto", "cpu")->absent.empty());
  EXPECT_THROW(make_transport("no such", "cpu", world()), AgreedError);
  if (world().size() > 1) {
    EXPECT_THROW(make_transport("self", "cpu", world()), AgreedError);
  }
  Stream stream;
  int value = world().rank(), sum = 0;
  make_transport("auto", "cpu", world())->all_reduce(&value, &sum, 1, DType::i32, ReduceOp::sum, stream);
  EXPECT_EQ(sum, world().size() * (world().size() - 1) / 2);
}

TEST(Halves, ComeBackFromFloats) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = float_of_bf16(half), of16 = float_of_f16(half);
    EXPECT_TRUE(std::isnan(wide) || bf16_of_float(wide) == half) << bits;
    EXPECT_TRUE(std::isnan(of16) || f16_of_float(of16) == half) << bits;
    EXPECT_EQ(std::isnan(wide), (bits & 0x7fff) > 0x7f80);
    EXPECT_EQ(std::isnan(of16), (bits & 0x7fff) > 0x7c00);
    // The value itself, by the format's definition.
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    if (exponent < 31) {
      const double magnitude =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(of16, (bits & 0x8000) != 0 ? -magnitude : magnitude);
    }
  }
  EXPECT_TRUE(std::isnan(float_of_f16(f16_of_float(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isnan(float_of_bf16(bf16_of_float(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Halves, RoundToNearestEven) {
  for (uint32_t bits = 0; bits + 1 < 0x7c00; ++bits) {
    const float low = float_of_f16(static_cast<uint16_t>(bits)),
                high = float_of_f16(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(f16_of_float(middle), bits + (bits & 1)) << bits;
    EXPECT_EQ(f16_of_float(std::nextafter(middle, 1e9f)), bits + 1) << bits;
    EXPECT_EQ(f16_of_float(-std::nextafter(middle, 0.0f)), bits | 0x8000) << bits;
  }
  EXPECT_EQ(f16_of_float(65519.99f), 0x7bff);
  EXPECT_EQ(f16_of_float(65520.0f), 0x7c00);
  EXPECT_EQ(bf16_of_float(1.00390625f), 0x3f80);  // a tie, to even
  EXPECT_EQ(bf16_of_float(1.01171875f), 0x3f82);
}

// Halves are rounded once, after all ranks' numbers are added.
TEST(Combine, RoundsOnce) {
  const uint16_t one = bf16_of_float(1), small = bf16_of_float(0x1p-9f);
  const void* in[] = {&one, &small, &small, &small, &small};
  uint16_t out = 0;
  combine(in, 5, &out, 1, DType::bf16, ReduceOp::sum);
  EXPECT_EQ(float_of_bf16(out), 1.0078125f);
}

// Any bits, odd counts and places, two inputs and more: what float32 sums in rank order round to.
TEST(Combine, AddsBfloat16AsFloatsWould) {
  for (const int inputs : {2, 3, 5})
    for (const size_t count : {1, 2, 7, 1024, 1025, 5001}) {
      std::vector<std::vector<uint16_t>> parts;
      std::vector<const void*> in;
      uint64_t random = count;
      for (int r = 0; r < inputs; ++r) {
        parts.emplace_back(count + 1);
        for (uint16_t& one : parts.back()) {
          random = random * 6364136223846793005u + 1442695040888963407u;
          one = static_cast<uint16_t>(random >> 48);
        }
      }
      for (auto& part : parts) in.push_back(part.data() + 1);  // not at words
      std::vector<uint16_t> out(count + 2, 0x5555);
      combine(in.data(), inputs, out.data() + 1, static_cast<int64_t>(count), DType::bf16, ReduceOp::sum);
      for (size_t i = 0; i < count; ++i) {
        float sum = float_of_bf16(parts[0][i + 1]);
        for (int r = 1; r < inputs; ++r) sum += float_of_bf16(parts[static_cast<size_t>(r)][i + 1]);
        const bool nan = std::isnan(sum);  // whose bits are nobody's
        ASSERT_TRUE(nan ? std::isnan(float_of_bf16(out[i + 1])) : out[i + 1] == bf16_of_float(sum)) << i;
      }
      EXPECT_EQ(out.front(), 0x5555);
      EXPECT_EQ(out.back(), 0x5555);
    }
}

}  // namespace
}  // namespace lamina

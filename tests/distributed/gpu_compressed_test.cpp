// All-reduces of codes between GPUs: by a codec above NCCL, and by kernels that store codes into one
// another's memory. Skipped, saying so, where ranks have no GPUs of their own.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "distributed/collectives/compressed.hpp"
#include "kernels/small_floats.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

class GpuCompressed : public testing::TestWithParam<Payload> {
 protected:
  void SetUp() override {
    static std::string why;
    static std::vector<std::unique_ptr<Transport>>& made = *new auto([] {
      std::vector<std::unique_ptr<Transport>> all_made;
      for (const char* name : {"nccl", "nccl-oneshot"}) {
        try {
          all_made.push_back(make_transport(name, "cuda", world()));
        } catch (const AgreedError& e) {
          why += std::string(e.what()) + "; ";
        }
      }
      return all_made;
    }());
    all = &made;
    if (made.empty()) GTEST_SKIP() << "no transport between GPUs here: " << why;
    device = find_device("cuda");
    stream = device->stream(1);
  }

  // The inner transport's name, and the all-reduce of codes above it.
  void each(int64_t block, int64_t most, bool feedback,
            const std::function<void(const std::string&, CompressedTransport&)>& work) {
    for (const auto& transport : *all) {
      CompressedTransport compressed(*transport, make_codec(GetParam(), block, "cuda"), *device, most,
                                     feedback);
      work(transport->name() + " " + to_string(GetParam()) + " block " + std::to_string(block), compressed);
    }
  }

  // What a block whose largest magnitude is 1 may be off by.
  double step() const {
    return GetParam() == Payload::int8 ? 0.5 / 127 : GetParam() == Payload::int4 ? 0.5 / 7 : 1.0 / 16;
  }

  std::vector<std::unique_ptr<Transport>>* all = nullptr;
  Device* device = nullptr;
  Stream stream;
};

float input(int rank, int64_t i) {
  return test::number(static_cast<uint64_t>(rank) + 7, i, 1) * (i / 1000 % 3 == 1 ? 100.0f : 1.0f);
}

std::vector<std::byte> stored(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) reinterpret_cast<float*>(bytes.data())[i] = values[i];
    if (dtype == DType::bf16) reinterpret_cast<uint16_t*>(bytes.data())[i] = bf16_of_float(values[i]);
    if (dtype == DType::f16) reinterpret_cast<uint16_t*>(bytes.data())[i] = f16_of_float(values[i]);
  }
  return bytes;
}
float read(const std::vector<std::byte>& bytes, DType dtype, int64_t i) {
  if (dtype == DType::f32) return reinterpret_cast<const float*>(bytes.data())[i];
  const uint16_t half = reinterpret_cast<const uint16_t*>(bytes.data())[i];
  return dtype == DType::bf16 ? float_of_bf16(half) : float_of_f16(half);
}

TEST_P(GpuCompressed, SumsWithinTheCodesStep) {
  for (const int64_t block : {32, 64, 128, 256, 512})
    each(block, 600'000, false, [&](const std::string& name, CompressedTransport& transport) {
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
        for (const int64_t count : {1, 31, 129, 2048, 4097, 100'003, 600'000}) {
          std::vector<float> own(static_cast<size_t>(count));
          for (int64_t i = 0; i < count; ++i) own[static_cast<size_t>(i)] = input(world().rank(), i);
          const auto bytes = stored(own, dtype);
          const auto size = static_cast<int64_t>(bytes.size());
          Buffer in = device->allocate(size + 16), out = device->allocate(size + 16);
          device->upload(in.data(), bytes.data(), size);
          device->fill(out.data(), 0x55555555u, (size + 16) / 4 * 4);
          transport.all_reduce(in.data(), out.data(), count, dtype, ReduceOp::sum, stream);
          device->synchronize();
          std::vector<std::byte> sums(bytes.size() + 16), in_place(bytes.size());
          device->download(sums.data(), out.data(), size + 16);
          for (int64_t i = size; i < (size + 16) / 4 * 4; ++i)
            ASSERT_EQ(sums[static_cast<size_t>(i)], std::byte{0x55}) << name << " wrote beside its output";
          transport.all_reduce(in.data(), in.data(), count, dtype, ReduceOp::sum, stream);
          device->synchronize();
          device->download(in_place.data(), in.data(), size);
          sums.resize(bytes.size());
          ASSERT_TRUE(in_place == sums) << name << " in place, " << count;
          std::vector<std::byte> first = sums;
          world().broadcast(first.data(), size, 0);
          ASSERT_TRUE(first == sums) << name << ": ranks differ, " << count;
          for (int64_t i = 0; i < count; ++i) {
            double exact = 0;
            for (int r = 0; r < world().size(); ++r) exact += read(stored({input(r, i)}, dtype), dtype, 0);
            // Blocks reach over at most 512 numbers, and 100 is the largest near some.
            const bool large = (i + 512) / 1000 % 3 == 1 || i / 1000 % 3 == 1 ||
                               std::max<int64_t>(i - 512, 0) / 1000 % 3 == 1;
            const double tolerance =
                (large ? 100 : 1) * world().size() * 2 * step() * 1.02 + std::abs(exact) / 128;
            ASSERT_NEAR(read(sums, dtype, i), exact, tolerance)
                << name << ", type " << int(dtype) << ", " << i << " of " << count;
          }
        }
    });
}

TEST_P(GpuCompressed, FeedsLossesBack) {
  const int64_t count = 5000;
  const int calls = 100;
  each(128, count, true, [&](const std::string& name, CompressedTransport& transport) {
    std::vector<float> own(count), once(count);
    for (int64_t i = 0; i < count; ++i)
      own[static_cast<size_t>(i)] = test::number(9 + static_cast<uint64_t>(world().rank()), i, 1);
    Buffer in = device->allocate(4 * count), out = device->allocate(4 * count);
    device->upload(in.data(), own.data(), 4 * count);
    std::vector<double> mean(count, 0.0);
    for (int call = 0; call < calls; ++call) {
      transport.all_reduce(in.data(), out.data(), count, DType::f32, ReduceOp::sum, stream);
      device->synchronize();
      device->download(once.data(), out.data(), 4 * count);
      for (size_t i = 0; i < mean.size(); ++i) mean[i] += once[i] / calls;
    }
    double worst = 0;
    for (int64_t i = 0; i < count; ++i) {
      double exact = 0;
      for (int r = 0; r < world().size(); ++r) exact += test::number(9 + static_cast<uint64_t>(r), i, 1);
      worst = std::max(worst, std::abs(mean[static_cast<size_t>(i)] - exact));
    }
    EXPECT_LT(worst, 6 * world().size() * step() / calls * 2) << name;
  });
}

TEST_P(GpuCompressed, IsCaptured) {
  const int64_t count = 300'000;
  each(128, count, false, [&](const std::string& name, CompressedTransport& transport) {
    std::vector<float> numbers(count), direct(count), replayed(count);
    Buffer in = device->allocate(4 * count), out = device->allocate(4 * count),
           again = device->allocate(4 * count);
    const auto replay = device->capture(stream, [&] {
      for (int i = 0; i < 3; ++i)
        transport.all_reduce(in.data(), again.data(), count - i, DType::f32, ReduceOp::sum, stream);
      transport.all_reduce(in.data(), again.data(), count, DType::f32, ReduceOp::sum, stream);
    });
    for (int round = 0; round < 20; ++round) {
      for (int64_t i = 0; i < count; ++i)
        numbers[static_cast<size_t>(i)] =
            test::number(static_cast<uint64_t>(100 * world().rank() + round), i, 2);
      device->upload(in.data(), numbers.data(), 4 * count);
      transport.all_reduce(in.data(), out.data(), count, DType::f32, ReduceOp::sum, stream);
      replay->run(2);
      device->download(direct.data(), out.data(), 4 * count);
      device->download(replayed.data(), again.data(), 4 * count);
      ASSERT_TRUE(direct == replayed) << name << ", round " << round;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Payloads, GpuCompressed, testing::Values(Payload::int8, Payload::fp8, Payload::int4),
                         [](const auto& one) { return to_string(one.param); });

}  // namespace
}  // namespace lamina

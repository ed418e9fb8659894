// Codes with block scales, all-reduces that send them, and the verification of collectives.
#include "distributed/collectives/compressed.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "distributed/collectives/verify.hpp"
#include "kernels/small_floats.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

const Payload kPayloads[] = {Payload::int8, Payload::fp8, Payload::int4};

// Half a step of what a code can tell, for a number of a block whose largest is `most`.
float half_step(Payload payload, float value, float most) {
  if (payload == Payload::int8) return most / 127 / 2;
  if (payload == Payload::int4) return most / 7 / 2;
  return std::max(std::abs(value) / 16, most / 448 / 1024);
}

TEST(Codec, LosesAtMostHalfAStep) {
  for (const Payload payload : kPayloads)
    for (const int64_t block : {32, 128, 1024})
      for (const int64_t count : {0, 1, 31, 32, 33, 127, 1000, 70'001}) {
        const auto codec = make_codec(payload, block, "cpu");
        const auto n = static_cast<size_t>(count);
        std::vector<float> x(n), y(n), residual(n, 0.0f);
        for (size_t i = 0; i < n; ++i)
          x[i] = std::ldexp(test::number(1, static_cast<int64_t>(i), 0), static_cast<int>(i / 37 % 40) - 20);
        std::vector<std::byte> image(static_cast<size_t>(codec->image_bytes(count)));
        Stream stream{.threads = count > 10'000 ? 2 : 1};
        codec->encode(x.data(), DType::f32, count, residual.data(), image.data(), stream);
        codec->decode(image.data(), count, y.data(), DType::f32, stream);
        for (size_t i = 0; i < n; ++i) {
          const size_t begin = i / static_cast<size_t>(block) * static_cast<size_t>(block);
          float most = 0;
          for (size_t j = begin; j < std::min(n, begin + static_cast<size_t>(block)); ++j)
            most = std::max(most, std::abs(x[j]));
          ASSERT_LE(std::abs(x[i] - y[i]), half_step(payload, x[i], most) * 1.0001f)
              << to_string(payload) << " block " << block << " element " << i << " of " << count;
          ASSERT_EQ(residual[i], x[i] - y[i]);
        }
      }
}

TEST(Codec, KeepsZerosAndTheLargestNumber) {
  for (const Payload payload : kPayloads) {
    const auto codec = make_codec(payload, 32, "cpu");
    std::vector<float> x(96, 0.0f), y(96);
    x[40] = -3.5f;
    x[70] = 1e-38f;  // as good as nothing
    Stream stream;
    std::vector<std::byte> image(static_cast<size_t>(codec->image_bytes(96)));
    codec->encode(x.data(), DType::f32, 96, nullptr, image.data(), stream);
    codec->decode(image.data(), 96, y.data(), DType::f32, stream);
    x[70] = 0;
    for (size_t i = 0; i < x.size(); ++i) EXPECT_FLOAT_EQ(y[i], x[i]) << to_string(payload) << " " << i;
  }
}

TEST(Codec, AddsUpImages) {
  for (const Payload payload : kPayloads) {
    const auto codec = make_codec(payload, 64, "cpu");
    const int64_t count = 500, bytes = codec->image_bytes(count);
    std::vector<std::byte> images(static_cast<size_t>(3 * bytes)), sum(static_cast<size_t>(bytes));
    std::vector<float> exact(500, 0.0f), y(500), one(500);
    Stream stream;
    for (int image = 0; image < 3; ++image) {
      std::vector<uint16_t> x(500);
      for (int64_t i = 0; i < count; ++i)
        x[static_cast<size_t>(i)] = bf16_of_float(test::number(5, i, image));
      codec->encode(x.data(), DType::bf16, count, nullptr, images.data() + image * bytes, stream);
      codec->decode(images.data() + image * bytes, count, one.data(), DType::f32, stream);
      for (size_t i = 0; i < one.size(); ++i) exact[i] += one[i];
    }
    codec->sum(images.data(), 3, bytes, count, nullptr, sum.data(), stream);
    codec->decode(sum.data(), count, y.data(), DType::f32, stream);
    for (size_t i = 0; i < y.size(); ++i)
      EXPECT_LE(std::abs(y[i] - exact[i]), half_step(payload, exact[i], 3) * 1.001f) << to_string(payload);
  }
}

TEST(Codec, RefusesOddBlocks) {
  EXPECT_THROW(make_codec(Payload::int8, 48, "cpu"), std::invalid_argument);
  EXPECT_THROW(make_codec(Payload::int8, 0, "cpu"), std::invalid_argument);
  EXPECT_THROW(make_codec(Payload::int8, 2048, "cpu"), std::invalid_argument);
}

struct Call {
  std::vector<std::byte> in, out;
  Verification found;
};

Call call(Transport& transport, const char* name, int64_t elements, DType dtype,
          const Compression* compression, bool in_place = false) {
  const Collective& collective = *find_collective(name);
  const int rank = world().rank(), ranks = world().size();
  const CollectiveSizes sizes = collective.sizes(elements, ranks);
  const int64_t width = dtype_bytes(dtype);
  Call result;
  result.in.resize(static_cast<size_t>(sizes.in * width));
  result.out.resize(static_cast<size_t>(sizes.out * width), std::byte{0x7f});
  fill_collective(rank, ranks, sizes.in, dtype, result.in.data(), 1);
  Stream stream;
  if (in_place) result.out = result.in;
  collective.run(transport, in_place ? result.out.data() : result.in.data(), result.out.data(), sizes, dtype,
                 stream);
  result.found = verify_collective(collective, sizes, rank, ranks, dtype, result.out.data(), compression, 1);
  return result;
}

TEST(Compressed, SumsWithinWhatCodesLose) {
  const auto inner = make_transport("auto", "cpu", world());
  for (const Payload payload : kPayloads)
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (const int64_t count : {0, 1, 3, 127, 128, 129, 5000, 100'003})
        for (const bool in_place : {false, true}) {
          const Compression compression{payload, 128, false};
          CompressedTransport transport(*inner, make_codec(payload, 128, "cpu"), *find_device("cpu"), 100'003,
                                        false);
          const Call one = call(transport, "all_reduce", count, dtype, &compression, in_place);
          EXPECT_EQ(one.found.wrong, 0)
              << to_string(payload) << " " << count << " element " << one.found.worst << ": "
              << one.found.error << " > " << one.found.tolerance;
          // The same bits on every rank.
          std::vector<std::byte> first = one.out;
          world().broadcast(first.data(), static_cast<int64_t>(first.size()), 0);
          EXPECT_TRUE(first == one.out);
        }
}

TEST(Compressed, ErrorFeedbackComesNearTheExactMean) {
  const auto inner = make_transport("auto", "cpu", world());
  const int64_t count = 3001;
  double once = 0, fed = 0;
  for (const bool feedback : {false, true}) {
    CompressedTransport transport(*inner, make_codec(Payload::int4, 64, "cpu"), *find_device("cpu"), count,
                                  feedback);
    std::vector<double> mean(static_cast<size_t>(count), 0.0);
    for (int i = 0; i < 20; ++i) {
      const Compression compression{Payload::int4, 64, feedback};
      const Call one = call(transport, "all_reduce", count, DType::f32, &compression);
      EXPECT_EQ(one.found.wrong, 0) << one.found.error << " > " << one.found.tolerance;
      add_collective(one.out.data(), count, DType::f32, 1.0 / 20, mean.data());
    }
    double error = 0;
    for (int64_t i = 0; i < count; ++i) {
      double exact = 0;
      for (int r = 0; r < world().size(); ++r) exact += collective_value(r, world().size(), i, DType::f32);
      error += std::pow(mean[static_cast<size_t>(i)] - exact, 2);
    }
    (feedback ? fed : once) = error;
  }
  EXPECT_LT(fed, once / 50);
}

TEST(Compressed, RefusesWhatItCannotSum) {
  const auto inner = make_transport("auto", "cpu", world());
  CompressedTransport transport(*inner, make_codec(Payload::int8, 128, "cpu"), *find_device("cpu"), 100,
                                false);
  EXPECT_EQ(transport.refusal(CollectiveKind::all_reduce, DType::f32, 100), "");
  EXPECT_NE(transport.refusal(CollectiveKind::all_reduce, DType::i8, 100), "");
  EXPECT_NE(transport.refusal(CollectiveKind::all_reduce, DType::f32, 101), "");
  float x = 0;
  Stream stream;
  EXPECT_THROW(transport.all_reduce(&x, &x, 1, DType::f32, ReduceOp::max, stream), std::invalid_argument);
}

TEST(Collectives, AreVerifiedElementByElement) {
  const auto transport = make_transport("auto", "cpu", world());
  for (const Collective& collective : collectives())
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8})
      for (const int64_t elements : {0, 1, 7, 4096, 40'003}) {
        Call one = call(*transport, collective.name.c_str(), elements, dtype, nullptr);
        EXPECT_EQ(one.found.wrong, 0) << collective.name << " " << elements << ": element " << one.found.worst
                                      << " " << one.found.error << " > " << one.found.tolerance;
        if (one.out.empty()) continue;
        // A number off by a little is found, and so is one that is none.
        const CollectiveSizes sizes = collective.sizes(elements, world().size());
        const auto last = static_cast<size_t>(sizes.out - 1);
        const auto again = [&] {
          return verify_collective(collective, sizes, world().rank(), world().size(), dtype, one.out.data(),
                                   nullptr, 2);
        };
        if (dtype == DType::f32) {
          reinterpret_cast<float*>(one.out.data())[last] += 1e-5f;
          EXPECT_EQ(again().wrong, 1) << collective.name;
          EXPECT_EQ(again().worst, sizes.out - 1);
          reinterpret_cast<float*>(one.out.data())[last] = std::numeric_limits<float>::quiet_NaN();
        } else if (dtype == DType::i8) {
          reinterpret_cast<int8_t*>(one.out.data())[last] += 1;
        } else {
          continue;
        }
        EXPECT_EQ(again().wrong, 1) << collective.name;
      }
}

TEST(Collectives, CountAsNcclTestsDoes) {
  const auto sizes = [](const char* name, int64_t elements, int ranks) {
    const CollectiveSizes found = find_collective(name)->sizes(elements, ranks);
    return std::vector<int64_t>{found.message, found.count, found.in, found.out};
  };
  EXPECT_EQ(sizes("all_reduce", 100, 4), (std::vector<int64_t>{100, 100, 100, 100}));
  EXPECT_EQ(sizes("all_gather", 100, 4), (std::vector<int64_t>{100, 25, 25, 100}));
  EXPECT_EQ(sizes("reduce_scatter", 102, 4), (std::vector<int64_t>{100, 25, 100, 25}));
  EXPECT_EQ(sizes("all_to_all", 3, 4), (std::vector<int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(find_collective("all_reduce")->factor(4), 1.5);
  EXPECT_EQ(find_collective("all_gather")->factor(4), 0.75);
  EXPECT_EQ(find_collective("broadcast")->factor(4), 1);
  EXPECT_EQ(find_collective("all_reduce")->factor(1), 0);
  EXPECT_EQ(find_collective("no such"), nullptr);
}

}  // namespace
}  // namespace lamina

// Outputs in bfloat16, as ranks may sum them: rounded by a device, and by the kernels that write them so.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/small_floats.hpp"
#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

constexpr uint32_t kPoison = 0x7fc07fc0;

void expect_rounds_and_widens(Device& device, Stream stream) {
  for (const int64_t count : {0, 1, 4, 7, 4096, 5001, 70'000}) {
    Matrix<float> x = random_matrix(1, count, 1, 100);
    const float special[] = {1.00390625f, 1.01171875f, 3.4e38f, -1e-31f, 1e-38f, 65535.0f, -0.0f};
    for (int64_t i = 0; i < std::min<int64_t>(count, std::size(special)); ++i) x(0, i) = special[i];
    const Buffer in = place_activations(device, x.data.data(), count, InputType::f32);
    Buffer narrow = device.allocate(2 * count + 64), wide = device.allocate(4 * count + 64);
    device.fill(narrow.data(), kPoison, narrow.bytes() / 4 * 4);
    device.fill(wide.data(), kPoison, wide.bytes());
    device.round_bf16(in.as<float>(), narrow.data(), count, stream);
    device.widen_bf16(narrow.data(), wide.as<float>(), count, stream);
    const auto rounded = fetch_activations(device, narrow.data(), count + 2, InputType::bf16);
    const auto widened = fetch_activations(device, wide.data(), count + 2, InputType::f32);
    for (int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      ASSERT_EQ(rounded[at], bf16_activation(x(0, i))) << count << " " << i;
      ASSERT_EQ(widened[at], rounded[at]) << count << " " << i;
    }
    for (size_t at : {static_cast<size_t>(count), static_cast<size_t>(count) + 1}) {
      EXPECT_TRUE(std::isnan(rounded[at])) << "wrote behind " << count;
      EXPECT_TRUE(std::isnan(widened[at])) << "wrote behind " << count;
    }
  }
}

TEST(Bf16Outputs, AreRoundedAndWidenedOnTheHost) {
  for (const int threads : {1, 3}) expect_rounds_and_widens(*find_device("cpu"), {.threads = threads});
}

TEST(Bf16Outputs, AreRoundedAndWidenedByCudaDevices) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  expect_rounds_and_widens(*device, device->stream(1));
}

// One rounding more than forward() has, sums along many columns too.
TEST(Bf16Outputs, OfCudaKernelsAreRoundedOnce) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  Stream stream = device->stream(1);
  int checked = 0;
  for (const Shape shape : {Shape{136, 192}, Shape{8, 16384}, Shape{2048, 4096}}) {
    Problems problems;
    const auto scheme = make_scheme("dense", {{"dtype", std::string("bf16")}}, shape, problems);
    ASSERT_NE(scheme, nullptr);
    const Leaf leaf =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 7, 0.05f)).leaves[0];
    for (const Kernel* kernel : test_registry().kernels("cuda")) {
      if (!kernel->absent.empty() || !kernel->refuses(leaf).empty()) continue;
      Workspace workspace;
      constexpr int64_t kMost = 130;
      const auto layer = kernel->make(leaf, {.max_tokens = kMost, .threads = 1, .workspace = &workspace});
      Matrix<float> x = random_matrix(kMost, leaf.cols, 11);
      for (float& value : x.data) value = rounded_input(value, kernel->input);
      const ReferenceProduct reference = reference_product(
          leaf, product_input(reference_activations(x, leaf, {0, leaf.cols}, kernel->input)), 8);
      for (const int64_t tokens : {1, 2, 17, 130}) {
        const Buffer in = place_activations(*device, x.data.data(), tokens * leaf.cols, kernel->input);
        const int64_t count = tokens * leaf.rows;
        Buffer y = device->allocate(2 * count + 64);
        device->fill(y.data(), kPoison, y.bytes() / 4 * 4);
        if (!layer->forward_bf16(in.as<float>(), y.data(), tokens, stream)) continue;
        const auto found = fetch_activations(*device, y.data(), count + 2, InputType::bf16);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t i = 0; i < leaf.rows; ++i) {
            const double error = std::abs(found[static_cast<size_t>(t * leaf.rows + i)] - reference.y(t, i));
            ASSERT_LE(error, kernel->rounding * reference.tolerance(t, i) +
                                 0x1.01p-8 * std::abs(reference.y(t, i)) + kSmallestActivation)
                << kernel->name << " " << t << " " << i;
          }
        EXPECT_TRUE(std::isnan(found[static_cast<size_t>(count)])) << kernel->name << " wrote beside y";
        ++checked;
      }
    }
  }
  EXPECT_GT(checked, 0);
}

}  // namespace
}  // namespace lamina

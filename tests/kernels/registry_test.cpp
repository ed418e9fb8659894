#include "kernels/registry.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;

Kernel fake_kernel(const std::string& name, int preference, const std::string& refusal,
                   const std::string& absent = "") {
  Kernel kernel;
  kernel.name = name;
  kernel.device = "cpu";
  kernel.preference = preference;
  kernel.absent = absent;
  kernel.refuses = [refusal](const Leaf&) { return refusal; };
  return kernel;
}

TEST(Registry, AutoTakesThePreferredThatTakesTheLeaf) {
  Registry registry;
  registry.add(fake_kernel("slow", -1, ""));
  registry.add(fake_kernel("fast", 9, "only odd sizes"));
  registry.add(fake_kernel("missing", 8, "", "install it"));
  registry.add(fake_kernel("good", 5, ""));
  const Kernel* chosen = registry.choose("auto", "cpu", Leaf{}, nullptr);
  ASSERT_NE(chosen, nullptr);
  EXPECT_EQ(chosen->name, "good");
  const auto kernels = registry.kernels("cpu");
  ASSERT_EQ(kernels.size(), 4u);
  EXPECT_EQ(kernels.front()->name, "fast");
  EXPECT_EQ(kernels.back()->name, "slow");
}

TEST(Registry, SaysWhyThereIsNone) {
  Registry registry;
  std::string why;
  EXPECT_EQ(registry.choose("auto", "cpu", Leaf{}, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("no kernel is registered for device \"cpu\""));

  registry.add(fake_kernel("native", 1, "multiplies int8"));
  registry.add(fake_kernel("native", 2, "multiplies int4"));
  registry.add(fake_kernel("onednn", 3, "", "built without oneDNN; install libdnnl-dev"));
  EXPECT_EQ(registry.choose("native", "cpu", Leaf{}, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("multiplies int8"));
  EXPECT_THAT(why, HasSubstr("multiplies int4"));
  EXPECT_EQ(registry.choose("onednn", "cpu", Leaf{}, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("install libdnnl-dev"));
  EXPECT_EQ(registry.choose("natve", "cpu", Leaf{}, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("unknown kernel \"natve\""));
  EXPECT_THAT(why, HasSubstr("auto, onednn, native"));
  EXPECT_EQ(registry.choose("auto", "cpu", Leaf{}, nullptr), nullptr);
}

TEST(Registry, SharedNamesAreTriedInTurn) {
  Registry registry;
  registry.add(fake_kernel("native", 2, "multiplies int4"));
  registry.add(fake_kernel("native", 1, ""));
  const Kernel* chosen = registry.choose("native", "cpu", Leaf{}, nullptr);
  ASSERT_NE(chosen, nullptr);
  EXPECT_EQ(chosen->preference, 1);
}

TEST(Registry, RefusesTwoSchemesOfOneName) {
  Registry registry;
  SchemeType scheme;
  scheme.type = "dense";
  registry.add(scheme);
  EXPECT_THROW(registry.add(scheme), std::logic_error);
  EXPECT_EQ(registry.find_scheme("none"), nullptr);
}

// What is registered describes itself: `lamina list` and the documentation are made of this.
TEST(RegisteredParts, DescribeThemselves) {
  const Registry& registry = test_registry();
  for (const char* type : {"dense", "int8", "int4", "pruned", "lowrank", "sum"})
    EXPECT_NE(registry.find_scheme(type), nullptr) << type;
  for (const SchemeType& scheme : registry.schemes()) {
    EXPECT_FALSE(scheme.help.empty()) << scheme.type;
    for (const KeySpec& key : scheme.keys) EXPECT_FALSE(key.help.empty()) << scheme.type << "." << key.name;
  }
  for (const Kernel& kernel : registry.all_kernels()) {
    EXPECT_FALSE(kernel.help.empty()) << kernel.name;
    EXPECT_TRUE(!kernel.isa.empty() || !kernel.absent.empty()) << kernel.name;
  }
  bool cpu = false;
  for (const DeviceInfo& device : registry.devices()) {
    cpu = cpu || (device.type == "cpu" && device.available);
    if (!device.available) {
      EXPECT_FALSE(device.reason.empty()) << device.type;
    }
  }
  EXPECT_TRUE(cpu);
}

// Fast kernels say no to what they would get wrong.
TEST(RegisteredKernels, RefuseWhatTheyDoNotHandle) {
  Leaf leaf;
  leaf.rows = leaf.whole_rows = 2;
  leaf.cols = leaf.whole_cols = 32;
  leaf.bits = 4;
  leaf.group = 32;
  leaf.codes.assign(64, 1);
  leaf.scales.assign(2, 1.0f);
  std::string why;
  ASSERT_NE(test_registry().choose("native", "cpu", leaf, &why), nullptr) << why;

  Leaf zero = leaf;
  zero.zero_points.assign(2, 3);
  EXPECT_NE(test_registry().choose("native", "cpu", zero, &why), nullptr) << why;
  Leaf scaled = leaf;
  scaled.input_scales.assign(32, 2.0f);
  EXPECT_NE(test_registry().choose("native", "cpu", scaled, &why), nullptr) << why;
  Leaf small = leaf;
  small.group = 16;
  small.scales.assign(4, 1.0f);
  EXPECT_EQ(test_registry().choose("native", "cpu", small, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("groups of 32, 64 or 128, not 16"));
  EXPECT_EQ(test_registry().choose("openblas", "cpu", leaf, &why), nullptr);
  EXPECT_THAT(why, HasSubstr("not 4-bit codes"));

  // The slow one takes what others do not, and all get them right.
  for (const Leaf& odd : {zero, scaled, small}) {
    const Kernel* kernel = test_registry().choose("auto", "cpu", odd, &why);
    ASSERT_NE(kernel, nullptr) << why;
    EXPECT_EQ(kernel->name, odd.group == 16 ? "reference" : "native");
    const auto layer = kernel->make(odd, {.max_tokens = 1, .threads = 1});
    std::vector<float> x(32, 1.0f), y(2);
    Stream stream;
    layer->forward(x.data(), y.data(), 1, stream);
    const float expected = odd.zero_points.empty() ? (odd.input_scales.empty() ? 32.0f : 16.0f) : -64.0f;
    EXPECT_EQ(y[0], expected);
    EXPECT_EQ(y[1], expected);
  }
}

}  // namespace
}  // namespace lamina

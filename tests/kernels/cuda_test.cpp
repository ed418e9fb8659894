// Every registered kernel for GPUs, on every kind of leaf it takes, against the float64 reference of what it
// reads: a new kernel is covered without a line of its own. Skipped, saying so, where there is no GPU.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_devices.hpp"
#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

constexpr int64_t kGuarded = 64;  // floats beside y

// For tools under which everything takes a hundred times as long (scripts/sanitize_gpu.sh): of each scheme
// the first shape by a few numbers of tokens, each once, and our own kernels and cuBLASLt's.
bool brief() {
  static const bool is = std::getenv("LAMINA_BRIEF_GPU_TESTS") != nullptr;
  return is;
}
bool left_out(const Kernel& kernel, const Leaf& leaf) {
  return !kernel.absent.empty() || !kernel.refuses(leaf).empty() ||
         (brief() && (kernel.name == "cusparselt" || kernel.name == "cusparse"));
}
std::vector<int64_t> numbers_of_tokens() {
  if (brief()) return {1, 9, 33, 100, 130};  // every tile of prefill.cu but those of 16 and 32
  return {1, 2, 3, 5, 8, 9, 16, 17, 33, 64, 65, 130, 144, 300};
}

// y in the device's memory: NaN before, nothing but y written.
class DeviceOutput {
 public:
  DeviceOutput(Device& device, int64_t size)
      : device_(device),
        host_(static_cast<size_t>(size + 2 * kGuarded)),
        data_(device.allocate(4 * (size + 2 * kGuarded))) {
    device.fill(data_.data(), std::bit_cast<uint32_t>(kGuard), data_.bytes());
    device.fill(y(), std::bit_cast<uint32_t>(std::numeric_limits<float>::quiet_NaN()), 4 * size);
  }
  float* y() { return data_.as<float>() + kGuarded; }
  const float* fetch() {
    device_.synchronize();
    device_.download(host_.data(), data_.data(), data_.bytes());
    return host_.data() + kGuarded;
  }
  bool intact() const {
    for (size_t i = 0; i < static_cast<size_t>(kGuarded); ++i)
      if (host_[i] != kGuard || host_[host_.size() - 1 - i] != kGuard) return false;
    return true;
  }

 private:
  Device& device_;
  std::vector<float> host_;
  Buffer data_;
};

struct DeviceProblem {
  Matrix<float> x;
  ProductInput read;
  ReferenceProduct reference;
};

// As the kernel sees activations: rounded to its input first, then the leaf's own rule.
DeviceProblem make_problem(const Leaf& leaf, InputType input, uint64_t seed, int64_t tokens) {
  DeviceProblem problem;
  problem.x = random_matrix(tokens, leaf.cols, seed);
  for (int64_t t = 0; t < tokens; ++t) problem.x(t, leaf.cols / 2) *= 30;
  std::fill(problem.x.row(1), problem.x.row(1) + leaf.cols, 0.0f);
  Matrix<float> seen = problem.x;
  for (float& value : seen.data) value = rounded_input(value, input);
  problem.read = product_input(reference_activations(seen, leaf, {0, leaf.cols}, input));
  problem.reference = reference_product(leaf, problem.read, 16);
  return problem;
}

void check_kernel(Device& device, const Kernel& kernel, const Leaf& leaf, const DeviceProblem& problem) {
  Workspace workspace;
  // A kernel's own product: what may take its place has a kernel of its own here, or a test below.
  const LayerOptions options{.max_tokens = problem.x.rows,
                             .threads = 1,
                             .workspace = &workspace,
                             .ways = kernel.name == "native" ? Ways::own : Ways::any};
  const std::unique_ptr<Layer> layer = kernel.make(leaf, options), copy = kernel.make(leaf, options);
  EXPECT_GT(layer->weight_bytes(), 0);
  EXPECT_EQ(layer->cost(2).operations.total(), 2 * layer->cost(1).operations.total());
  Stream stream = device.stream(1);
  std::optional<ReferenceProduct>
      rounded;  // of weights rounded to bfloat16, which some ways of a kernel multiply
  for (int64_t tokens : numbers_of_tokens()) {
    if (tokens > problem.x.rows) continue;
    const Buffer x = place_activations(device, problem.x.data.data(), tokens * leaf.cols, kernel.input);
    DeviceOutput first(device, tokens * leaf.rows), second(device, tokens * leaf.rows);
    layer->forward(x.as<float>(), first.y(), tokens, stream);
    const float* y = first.fetch();
    const bool rounds = layer->rounds_weights(tokens);
    if (rounds && !rounded) rounded = reference_product(leaf, problem.read, 16, true);
    EXPECT_LE(worst_error(y, tokens, rounds ? *rounded : problem.reference), kernel.rounding)
        << kernel.name << ", " << tokens << " tokens";
    EXPECT_TRUE(first.intact()) << kernel.name << " wrote beside y, " << tokens << " tokens";
    if (brief()) continue;
    // Captured, by another copy that shares its scratch, and twice: the same to the bit.
    const auto replay =
        device.capture(stream, [&] { copy->forward(x.as<float>(), second.y(), tokens, stream); });
    EXPECT_GT(replay->run(2), 0);
    const float* again = second.fetch();
    EXPECT_TRUE(std::equal(y, y + tokens * leaf.rows, again)) << kernel.name << ", " << tokens << " tokens";
    EXPECT_TRUE(second.intact());
  }
}

class EveryCudaKernel : public testing::TestWithParam<SchemeCase> {};

TEST_P(EveryCudaKernel, MatchesReference) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  int kernels = 0;
  for (const Shape& shape : GetParam().shapes) {
    Problems problems;
    const std::unique_ptr<Scheme> scheme = make_scheme(GetParam().type, GetParam().keys, shape, problems);
    ASSERT_NE(scheme, nullptr);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 7, 0.05f));
    for (const Leaf& leaf : weights.leaves) {
      for (const Kernel* kernel : test_registry().kernels("cuda")) {
        if (left_out(*kernel, leaf)) continue;
        SCOPED_TRACE(scheme->name() + " " + std::to_string(shape.out_features) + "×" +
                     std::to_string(shape.in_features) + " by " + kernel->name);
        check_kernel(*device, *kernel, leaf, make_problem(leaf, kernel->input, 11, GetParam().max_tokens));
        ++kernels;
      }
    }
    if (brief()) break;
  }
  if (kernels == 0) GTEST_SKIP() << "no kernel for GPUs takes " << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryCudaKernel, testing::ValuesIn(scheme_cases()),
                         [](const auto& one) { return one.param.name; });

Value nested(const Keys& values) {
  static Problems unused;
  return make_params(values, unused, "/scheme/values");
}
Keys two_of_four(const Keys& values) {
  return {{"pattern", std::string("2:4")}, {"values", nested(values)}};
}

struct Case {
  std::string type;
  Keys keys;
  Shape shape;
};

void check_cases(const std::vector<Case>& cases, int64_t most_tokens) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  for (const Case& one : cases) {
    Problems problems;
    const auto scheme = make_scheme(one.type, one.keys, one.shape, problems);
    ASSERT_NE(scheme, nullptr);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(one.shape.out_features, one.shape.in_features, 3, 0.05f));
    for (const Kernel* kernel : test_registry().kernels("cuda")) {
      if (left_out(*kernel, weights.leaves[0])) continue;
      SCOPED_TRACE(scheme->name() + " by " + kernel->name);
      check_kernel(*device, *kernel, weights.leaves[0],
                   make_problem(weights.leaves[0], kernel->input, 5, most_tokens));
    }
  }
}
const Keys kBf16{{"type", std::string("dense")}, {"dtype", std::string("bf16")}};

// Sizes at which blocks of threads share rows of blocks, and several a block of threads.
TEST(CudaKernels, MatchTheReferenceOnLargeLayers) {
  check_cases(
      {{"int4", {{"group", int64_t{128}}}, {2048, 4096}},
       {"int4", {{"group", int64_t{32}}}, {192, 16384}},
       {"int8", {{"activations", std::string("f32")}}, {20000, 640}},
       {"int8", {}, {1024, 2048}},
       {"fp8", {}, {3000, 2112}},
       {"fp8", {{"activations", std::string("fp8")}}, {1024, 2048}},
       {"pruned", two_of_four(kBf16), {3008, 2112}},
       {"pruned", two_of_four({{"type", std::string("int8")}}), {1024, 2048}},
       {"pruned",
        two_of_four({{"type", std::string("fp8")}, {"activations", std::string("fp8")}}),
        {1024, 2048}},
       {"pruned", {{"values", nested(kBf16)}}, {1100, 4096}},
       {"pruned",
        {{"pattern", std::string("block")}, {"block", int64_t{32}}, {"values", nested(kBf16)}},
        {2048, 4096}},
       {"pruned", two_of_four({{"type", std::string("int4")}, {"group", int64_t{128}}}), {2048, 4096}},
       {"dense", {{"dtype", std::string("bf16")}}, {512, 28672}},
       {"dense", {{"dtype", std::string("bf16")}}, {17003, 72}}},
      144);
}

// Ways to share a layer among 132 multiprocessors: of few strips several blocks each, of more one or two a
// block, of many runs of them.
TEST(CudaKernels, MatchTheReferenceHoweverLayersAreCut) {
  check_cases({{"int8", {{"activations", std::string("f32")}}, {70, 32832}},
               {"int4", {{"group", int64_t{64}}, {"asymmetric", true}}, {33, 40960}},
               {"int4", {{"group", int64_t{128}}}, {6000, 256}},
               {"fp8", {}, {5001, 200}},
               {"pruned", two_of_four(kBf16), {4700, 192}},
               {"pruned", {{"values", nested(kBf16)}}, {4500, 200}},
               {"pruned",
                {{"pattern", std::string("block")}, {"block", int64_t{32}}, {"values", nested(kBf16)}},
                {4512, 256}},
               {"int4", {{"group", int64_t{32}}}, {8999, 160}},
               {"pruned", two_of_four(kBf16), {8800, 320}}},
              33);
}

// Scales that are 0, in all of a row too, and ones so far apart that sums in units of the smaller overflow.
TEST(CudaKernels, TakeGroupsOfZerosAndFarScales) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  for (const bool asymmetric : {false, true})
    for (const bool far : {false, true}) {
      Problems problems;
      const Shape shape{40, 256};
      const auto scheme =
          make_scheme("int4", {{"group", int64_t{32}}, {"asymmetric", asymmetric}}, shape, problems);
      ASSERT_NE(scheme, nullptr);
      Matrix<float> w = random_matrix(shape.out_features, shape.in_features, 7, 0.05f);
      for (int64_t i = 0; i < w.rows; ++i) std::fill_n(w.row(i) + i % 8 * 32, 32, 0.0f);
      std::fill_n(w.row(3), w.cols, 0.0f);
      for (int64_t j = 32; far && j < 64; ++j) w(5, j) *= 1e-28f;
      const Canonical weights = compress_whole(*scheme, w);
      for (const Kernel* kernel : test_registry().kernels("cuda")) {
        if (left_out(*kernel, weights.leaves[0])) continue;
        SCOPED_TRACE(scheme->name() + (far ? ", far scales, by " : " by ") + kernel->name);
        check_kernel(*device, *kernel, weights.leaves[0],
                     make_problem(weights.leaves[0], kernel->input, 5, 140));
      }
    }
}

// With many tokens `native` does what it does by itself, or what `expanded` does, to the bit, and says which;
// what a capture meets first, and what must be exact, is not expanded.
TEST(CudaKernels, TakeOneOfTwoWays) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  for (const Case& one :
       {Case{"int4", {{"group", int64_t{64}}}, {264, 512}},
        Case{"int4", {{"group", int64_t{128}}, {"activations", std::string("int8")}}, {300, 640}},
        Case{"int8", {{"activations", std::string("f32")}}, {270, 200}}, Case{"fp8", {}, {130, 328}},
        Case{"pruned",
             two_of_four({{"type", std::string("int8")}, {"activations", std::string("f32")}}),
             {96, 512}}}) {
    Problems problems;
    const auto scheme = make_scheme(one.type, one.keys, one.shape, problems);
    ASSERT_NE(scheme, nullptr);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(one.shape.out_features, one.shape.in_features, 3, 0.05f));
    const Leaf& leaf = weights.leaves[0];
    std::string why;
    const Kernel *native = test_registry().choose("native", "cuda", leaf, &why),
                 *expanded = test_registry().choose("expanded", "cuda", leaf, &why);
    ASSERT_NE(native, nullptr) << why;
    ASSERT_NE(expanded, nullptr) << why;
    SCOPED_TRACE(scheme->name());
    constexpr int64_t kMost = 301;
    const Matrix<float> numbers = random_matrix(kMost, leaf.cols, 8);
    const Buffer x = place_activations(*device, numbers.data.data(), kMost * leaf.cols, native->input);
    Stream stream = device->stream(1);
    const auto outputs = [&](Layer& layer, int64_t tokens) {
      DeviceOutput out(*device, tokens * leaf.rows);
      layer.forward(x.as<float>(), out.y(), tokens, stream);
      const float* y = out.fetch();
      EXPECT_TRUE(out.intact());
      return std::vector<float>(y, y + tokens * leaf.rows);
    };
    const auto make = [&](const Kernel& kernel, Ways ways) {
      return kernel.make(leaf, {.max_tokens = kMost, .threads = 1, .ways = ways});
    };
    const auto any = make(*native, Ways::any), own = make(*native, Ways::own),
               always = make(*expanded, Ways::any);
    for (int64_t tokens : {int64_t{9}, int64_t{65}, int64_t{200}, kMost}) {
      SCOPED_TRACE(tokens);
      const std::vector<float> found = outputs(*any, tokens);
      const bool expands = any->way(tokens) == "expand+cublaslt";
      EXPECT_EQ(own->way(tokens) == "decode", tokens <= 32 || own->way(kMost) == "decode");
      EXPECT_EQ(found, outputs(expands ? *always : *own, tokens)) << any->way(tokens);
      EXPECT_EQ(any->rounds_weights(tokens), expands && leaf.bits == 4);
      EXPECT_TRUE(tokens > 32 || !expands);
      EXPECT_TRUE(tokens <= 32 || always->way(tokens) == "expand+cublaslt");
    }
    constexpr int64_t kNew = 299;
    DeviceOutput out(*device, kNew * leaf.rows);
    const auto replay = device->capture(stream, [&] { any->forward(x.as<float>(), out.y(), kNew, stream); });
    EXPECT_GT(replay->run(1), 0);
    const float* y = out.fetch();
    EXPECT_EQ(std::vector<float>(y, y + kNew * leaf.rows), outputs(*own, kNew));
    EXPECT_EQ(any->way(kNew), own->way(kNew));
    if (leaf.bits != 4) continue;
    const auto exact = make(*native, Ways::exact);
    EXPECT_EQ(outputs(*exact, kMost), outputs(*own, kMost));
    EXPECT_FALSE(exact->rounds_weights(kMost));
    EXPECT_THROW(make(*expanded, Ways::exact), DeviceError);
  }
}

TEST(CudaDevice, AddsInPlace) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  Stream stream = device->stream(1);
  for (const int64_t count : {1, 7, 4096, 5001}) {
    const Matrix<float> x = random_matrix(1, count, 1), y = random_matrix(1, count, 2);
    const Buffer in = place_activations(*device, x.data.data(), count, InputType::f32);
    DeviceOutput out(*device, count);
    device->upload(out.y(), y.data.data(), 4 * count);
    device->add(in.as<float>(), out.y(), count, stream);
    const float* found = out.fetch();
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(found[i], x(0, i) + y(0, i));
    EXPECT_TRUE(out.intact());
  }
}

// What the second factor reads is the first one's y by the bf16 rule, whichever kernel rounds it.
TEST(CudaKernels, RoundBetweenFactors) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  for (const Value& factors : {nested({{"type", std::string("dense")}, {"dtype", std::string("bf16")}}),
                               nested({{"type", std::string("int8")}, {"activations", std::string("f32")}}),
                               nested({{"type", std::string("int4")}, {"group", int64_t{32}}})}) {
    Problems problems;
    const Shape shape{300, 224};
    const auto scheme =
        make_scheme("lowrank", {{"rank", int64_t{96}}, {"factors", factors}}, shape, problems);
    ASSERT_NE(scheme, nullptr);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 5, 0.05f));
    ASSERT_TRUE(weights.is_chain());
    constexpr int64_t kTokens = 70;
    Workspace first_workspace, second_workspace;
    std::string why;
    const Leaf &u = weights.leaves[0], &v = weights.leaves[1];
    const Kernel *first_kernel = test_registry().choose("auto", "cuda", v, &why),
                 *second_kernel = test_registry().choose("auto", "cuda", u, &why);
    ASSERT_NE(first_kernel, nullptr) << why;
    ASSERT_NE(second_kernel, nullptr) << why;
    const auto first = first_kernel->make(
                   v, {.max_tokens = kTokens, .threads = 1, .workspace = &first_workspace}),
               second = second_kernel->make(
                   u, {.max_tokens = kTokens, .threads = 1, .workspace = &second_workspace});
    Stream stream = device->stream(1);
    for (int64_t tokens : {1, 9, 33, 70}) {
      SCOPED_TRACE(scheme->name() + ", " + std::to_string(tokens) + " tokens");
      const Matrix<float> x = random_matrix(tokens, v.cols, 8);
      const Buffer in = place_activations(*device, x.data.data(), tokens * v.cols, first_kernel->input);
      DeviceOutput middle(*device, tokens * v.rows), y(*device, tokens * u.rows),
          alone(*device, tokens * u.rows);
      first->forward_then(*second, in.as<float>(), middle.y(), y.y(), tokens, stream);
      const float* between = middle.fetch();
      EXPECT_TRUE(middle.intact());
      const Buffer again = place_activations(*device, between, tokens * v.rows, second_kernel->input);
      second->forward(again.as<float>(), alone.y(), tokens, stream);
      const float *found = y.fetch(), *expected = alone.fetch();
      EXPECT_TRUE(y.intact());
      EXPECT_TRUE(std::equal(found, found + tokens * u.rows, expected));
    }
  }
}

TEST(CudaDevice, SaysWhatDoesNotFit) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  EXPECT_GT(device->free_bytes(), 0);
  EXPECT_GT(device->cache_bytes(), 0);
  try {
    device->allocate(device->free_bytes() * 2);
    FAIL() << "expected an exception";
  } catch (const DeviceError& e) {
    EXPECT_NE(std::string(e.what()).find("GiB"), std::string::npos) << e.what();
  }
  EXPECT_EQ(device->allocate(0).bytes(), 0);
}

TEST(CudaDevice, ProbesRun) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  Stream stream = device->stream(1);
  const std::vector<DeviceProbe> probes = device->probes();
  EXPECT_GE(probes.size(), 6u);
  for (const DeviceProbe& probe : probes) {
    const auto replay = device->capture(stream, [&] { probe.run(stream); });
    EXPECT_GT(replay->run(2), 0);
    EXPECT_GT(probe.work, 0);
  }
}

// A capture that fails leaves the device usable.
TEST(CudaDevice, SurvivesAFailedCapture) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  Stream stream = device->stream(1);
  EXPECT_THROW(device->capture(stream, [] { throw DeviceError("planted"); }), DeviceError);
  Buffer buffer = device->allocate(64);
  device->fill(buffer.data(), 7, 64);
  uint32_t word = 0;
  device->download(&word, buffer.data(), 4);
  EXPECT_EQ(word, 7u);
}

TEST(CpuDevice, MovesAndFills) {
  Device* device = find_device("cpu");
  ASSERT_NE(device, nullptr);
  Buffer buffer = device->allocate(12);
  device->fill(buffer.data(), 5, 12);
  uint32_t words[3] = {};
  device->download(words, buffer.data(), 12);
  EXPECT_EQ(words[2], 5u);
  Stream stream = device->stream(3);
  EXPECT_EQ(stream.threads, 3);
  EXPECT_EQ(device->capture(stream, [] {}), nullptr);
  EXPECT_EQ(find_device("tpu"), nullptr);
}

}  // namespace
}  // namespace lamina

// Every registered kernel, on every kind of leaf it takes, against the float64 reference. A new kernel is
// covered without a line of its own; a new scheme wants a line in scheme_cases().
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kernels/cpu/ops.hpp"
#include "kernels/reference.hpp"
#include "kernels/small_floats.hpp"
#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

struct Problem64 {
  Matrix<float> x;
  ReferenceProduct reference;
};

Problem64 make_problem(const Leaf& leaf, uint64_t seed, int64_t max_tokens = 8) {
  Problem64 problem;
  problem.x = random_matrix(max_tokens, leaf.cols, seed);
  // An outlier channel, as LLMs have, and a token of zeros.
  for (int64_t t = 0; t < max_tokens; ++t) problem.x(t, leaf.cols / 2) *= 30;
  std::fill(problem.x.row(1), problem.x.row(1) + leaf.cols, 0.0f);
  problem.reference = reference_of(leaf, problem.x);
  return problem;
}

void check_kernel(const Kernel& kernel, const Leaf& leaf, const Problem64& problem) {
  for (int threads : {1, 2}) {
    LayerOptions options;
    options.max_tokens = problem.x.rows;
    options.threads = threads;
    const std::unique_ptr<Layer> layer = kernel.make(leaf, options);
    EXPECT_GT(layer->weight_bytes(), 0);
    // The only weight of a 1 × 1 matrix may be pruned.
    if (leaf.rows > 1) {
      EXPECT_GT(layer->cost(1).operations.total(), 0);
    }
    EXPECT_EQ(layer->cost(2).operations.total(), 2 * layer->cost(1).operations.total());
    EXPECT_EQ(layer->cost(3).write_bytes, 12.0 * static_cast<double>(leaf.rows));
    Stream stream{threads};
    for (int64_t tokens : {1, 2, 3, 5, 8, 11, 12, 17, 64, 130, 257, 300}) {
      if (tokens > problem.x.rows) continue;
      if (kernel.name == "reference" && tokens > 8) continue;  // slow, and all tokens alike
      GuardedOutput output(tokens * leaf.rows);
      layer->forward(problem.x.data.data(), output.y(), tokens, stream);
      EXPECT_TRUE(output.intact()) << "wrote beside y, " << tokens << " tokens, " << threads << " threads";
      EXPECT_LE(worst_error(output.y(), tokens, problem.reference), 1.0)
          << kernel.name << ", " << tokens << " tokens, " << threads << " threads";
    }
  }
}

class EveryKernel : public testing::TestWithParam<SchemeCase> {
 protected:
  void TearDown() override { set_cpu_ops(nullptr); }
};

TEST_P(EveryKernel, MatchesReference) {
  int kernels = 0;
  for (const Shape& shape : GetParam().shapes) {
    Problems problems;
    const std::unique_ptr<Scheme> scheme = make_scheme(GetParam().type, GetParam().keys, shape, problems);
    ASSERT_NE(scheme, nullptr) << (problems.empty() ? "" : problems.items().front().message);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 7, 0.05f));
    for (const Leaf& leaf : weights.leaves) {
      const Problem64 problem = make_problem(leaf, 11, GetParam().max_tokens);
      for (const CpuOps* ops : cpu_ops_available()) {
        set_cpu_ops(ops);
        for (const Kernel* kernel : test_registry().kernels("cpu")) {
          if (!kernel->absent.empty() || !kernel->refuses(leaf).empty()) continue;
          if (!uses_table(*kernel) && ops != cpu_ops_available().front()) continue;
          SCOPED_TRACE(scheme->name() + " " + std::to_string(shape.out_features) + "×" +
                       std::to_string(shape.in_features) + " by " + kernel->name + " on " + ops->name);
          check_kernel(*kernel, leaf, problem);
          if (kernel->name != "reference") ++kernels;
        }
      }
      std::string why;
      const Kernel* chosen = test_registry().choose("auto", "cpu", leaf, &why);
      ASSERT_NE(chosen, nullptr) << why;
      EXPECT_EQ(chosen->name != "reference", GetParam().fast) << chosen->name << " takes " << scheme->name();
    }
  }
  EXPECT_EQ(kernels > 0, GetParam().fast);
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryKernel, testing::ValuesIn(scheme_cases()),
                         [](const auto& one) { return one.param.name; });

TEST(KernelCases, CoverEveryScheme) {
  std::set<std::string> covered;
  for (const SchemeCase& scheme : scheme_cases()) covered.insert(scheme.type);
  for (const SchemeType& scheme : test_registry().schemes())
    EXPECT_TRUE(covered.count(scheme.type) == 1) << "add a line for " << scheme.type << " to scheme_cases()";
}

// The comparison itself must be able to fail.
TEST(KernelCheck, CatchesWrongKernels) {
  const Shape shape{64, 256};
  Problems problems;
  const auto scheme = make_scheme("dense", {}, shape, problems);
  const Canonical weights = compress_whole(*scheme, random_matrix(64, 256, 3));
  const Problem64 problem = make_problem(weights.leaves[0], 5);
  const Kernel* kernel = test_registry().choose("native", "cpu", weights.leaves[0], nullptr);
  ASSERT_NE(kernel, nullptr);
  const auto layer = kernel->make(weights.leaves[0], {.max_tokens = 4, .threads = 1});
  Stream stream{1};
  std::vector<float> y(4 * 64);
  layer->forward(problem.x.data.data(), y.data(), 4, stream);
  ASSERT_LE(worst_error(y.data(), 4, problem.reference), 1.0);

  auto scaled = y;
  for (float& value : scaled) value *= 1.01f;
  EXPECT_GT(worst_error(scaled.data(), 4, problem.reference), 1.0);
  auto stale = y;
  stale[3 * 64 + 63] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_GT(worst_error(stale.data(), 4, problem.reference), 1.0);
  auto swapped = y;
  std::swap(swapped[0], swapped[1]);
  EXPECT_GT(worst_error(swapped.data(), 4, problem.reference), 1.0);
  // One weight of 16384 off by 1 %.
  Leaf wrong = weights.leaves[0];
  *std::max_element(wrong.values.begin(), wrong.values.end()) *= 1.01f;
  const auto wrong_layer = kernel->make(wrong, {.max_tokens = 4, .threads = 1});
  wrong_layer->forward(problem.x.data.data(), y.data(), 4, stream);
  EXPECT_GT(worst_error(y.data(), 4, problem.reference), 1.0);
}

// More threads than rows, and more than the layer was made for.
TEST(KernelThreads, MayExceedRowsAndOptions) {
  for (const char* type : {"dense", "int8", "pruned"}) {
    Problems problems;
    const auto scheme = make_scheme(type, {}, {3, 64}, problems);
    const Canonical weights = compress_whole(*scheme, random_matrix(3, 64, 3));
    const Problem64 problem = make_problem(weights.leaves[0], 5);
    const Kernel* kernel = test_registry().choose("native", "cpu", weights.leaves[0], nullptr);
    ASSERT_NE(kernel, nullptr);
    const auto layer = kernel->make(weights.leaves[0], {.max_tokens = 7, .threads = 2});
    Stream stream{4};
    GuardedOutput output(7 * 3);
    layer->forward(problem.x.data.data(), output.y(), 7, stream);
    EXPECT_TRUE(output.intact());
    EXPECT_LE(worst_error(output.y(), 7, problem.reference), 1.0) << type;
  }
}

// The same result whatever the thread count, of every kernel whose loops are ours: rows do not depend on who
// computes them.
TEST(KernelThreads, DoNotChangeTheResult) {
  for (const SchemeCase& one : scheme_cases()) {
    const Shape shape = one.shapes.front();
    Problems problems;
    const auto scheme = make_scheme(one.type, one.keys, shape, problems);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 3));
    for (const Leaf& leaf : weights.leaves) {
      const Matrix<float> x = random_matrix(kMaxTokens, leaf.cols, 9);
      for (const CpuOps* ops : cpu_ops_available()) {
        set_cpu_ops(ops);
        for (const Kernel* kernel : test_registry().kernels("cpu")) {
          if (!kernel->absent.empty() || !kernel->refuses(leaf).empty() || !uses_table(*kernel)) continue;
          std::vector<std::vector<float>> alone;
          for (int threads : {1, 2, 3, 5}) {
            const auto layer = kernel->make(leaf, {.max_tokens = kMaxTokens, .threads = threads});
            Stream stream{threads};
            size_t number = 0;
            for (int64_t tokens : {1, 13, 33, 130}) {
              if (tokens > 1 && tokens > one.max_tokens) continue;
              std::vector<float> y(static_cast<size_t>(tokens * leaf.rows));
              layer->forward(x.data.data(), y.data(), tokens, stream);
              if (threads == 1) alone.push_back(y);
              EXPECT_EQ(y, alone[number++]) << one.name << " by " << kernel->name << " on " << ops->name
                                            << ", " << tokens << " tokens, " << threads << " threads";
            }
          }
        }
      }
    }
  }
  set_cpu_ops(nullptr);
}

// The memory estimate's weights and scratch are those that layers take.
TEST(KernelMemory, IsWhatTheEstimateSays) {
  constexpr int kThreads = 3;
  constexpr int64_t kTokens = 48, kSlack = 64 << 10;  // rows of less than a panel, whole cache lines
  for (const SchemeCase& one : scheme_cases()) {
    std::unique_ptr<Scheme> scheme;
    Shape shape{256, 1024};
    for (; scheme == nullptr; ++shape.in_features) {
      Problems problems;
      scheme = make_scheme(one.type, one.keys, shape, problems);
    }
    --shape.in_features;
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, 3));
    const auto estimates = scheme->estimated_leaves(shape);
    ASSERT_EQ(estimates.size(), weights.leaves.size()) << one.name;
    for (size_t i = 0; i < estimates.size(); ++i) {
      const Leaf& leaf = weights.leaves[i];
      for (const CpuOps* ops : cpu_ops_available()) {
        set_cpu_ops(ops);
        for (const Kernel* kernel : test_registry().kernels("cpu")) {
          if (!kernel->absent.empty() || !kernel->refuses(leaf).empty()) continue;
          SCOPED_TRACE(one.name + " by " + kernel->name + " on " + ops->name);
          Workspace workspace;
          const auto layer =
              kernel->make(leaf, {.max_tokens = kTokens, .threads = kThreads, .workspace = &workspace});
          const int64_t packed =
              kernel->packed_bytes ? kernel->packed_bytes(estimates[i]) : estimates[i].packed;
          // oneDNN fills up panels of as many outputs as its widest vectors like.
          const int64_t panel = kernel->name.starts_with("onednn") ? 64 * leaf.cols * 4 : 0;
          EXPECT_LE(layer->weight_bytes(), packed + packed / 20 + kSlack + panel);
          EXPECT_GE(layer->weight_bytes(), packed * 9 / 10);
          EXPECT_LE(workspace.bytes(), kTokens * estimates[i].scratch_per_token +
                                           kThreads * estimates[i].scratch_per_thread + kSlack);
        }
      }
    }
  }
  set_cpu_ops(nullptr);
}

// Weight-only 4-bit codes of any finite activations, the largest too, where the result is finite.
TEST(KernelInt4, TakesHugeActivations) {
  Problems problems;
  const auto scheme = make_scheme("int4", {}, {37, 384}, problems);
  // Weights so small that results stay finite.
  const Leaf leaf = compress_whole(*scheme, random_matrix(37, 384, 3, 1e-4f)).leaves[0];
  Matrix<float> activations = random_matrix(14, 384, 9);
  for (int64_t t = 0; t < activations.rows; ++t) {
    // Huge, ordinary and just below what is scaled; a single huge one among ordinary ones.
    const float scale = t % 4 == 0 ? 5e37f : t % 4 == 1 ? 1.0f : t % 4 == 2 ? 4e18f : 1e27f;
    for (int64_t k = 0; k < activations.cols; ++k)
      if (t < 10 || k == 7) activations(t, k) *= scale;
  }
  const ReferenceProduct reference = reference_of(leaf, activations);
  for (const CpuOps* ops : cpu_ops_available()) {
    set_cpu_ops(ops);
    const Kernel* kernel = test_registry().choose("native", "cpu", leaf, nullptr);
    ASSERT_NE(kernel, nullptr);
    for (int threads : {1, 3}) {
      const auto layer = kernel->make(leaf, {.max_tokens = 14, .threads = threads});
      Stream stream{threads};
      for (int64_t tokens : {1, 8, 12, 14}) {
        GuardedOutput output(tokens * leaf.rows);
        layer->forward(activations.data.data(), output.y(), tokens, stream);
        EXPECT_LE(worst_error(output.y(), tokens, reference), 1.0)
            << ops->name << ", " << tokens << " tokens, " << threads << " threads";
      }
    }
  }
  set_cpu_ops(nullptr);
}

// Work and size are what is kept, not what was there.
TEST(KernelCost, CountsWhatIsKept) {
  const Shape shape{128, 256};
  const Matrix<float> w = random_matrix(128, 256, 3);
  auto layer_of = [&](const std::string& type, const Keys& keys) {
    Problems problems;
    const auto scheme = make_scheme(type, keys, shape, problems);
    const Canonical weights = compress_whole(*scheme, w);
    const Kernel* kernel = test_registry().choose("native", "cpu", weights.leaves[0], nullptr);
    auto layer = kernel->make(weights.leaves[0], {.max_tokens = 1, .threads = 1});
    EXPECT_NEAR(static_cast<double>(layer->weight_bytes()),
                static_cast<double>(scheme->estimated_weight_bytes(shape)),
                0.05 * static_cast<double>(layer->weight_bytes()))
        << scheme->name();
    EXPECT_NEAR(layer->cost(1).operations.total(), 2 * scheme->estimated_macs(shape), 1) << scheme->name();
    return layer;
  };
  EXPECT_EQ(layer_of("dense", {})->weight_bytes(), 128 * 256 * 4);
  const auto int8 = layer_of("int8", {});
  EXPECT_EQ(int8->weight_bytes(), 128 * (256 + 4));
  EXPECT_EQ(int8->cost(1).operations[Arithmetic::int8], 2 * 128 * 256);
  EXPECT_EQ(layer_of("int4", {})->weight_bytes(), 128 * (128 + 2 * 4));
  EXPECT_EQ(layer_of("int4", {})->cost(1).operations[Arithmetic::f32], 2 * 128 * 256);
  EXPECT_EQ(layer_of("int4", {{"activations", std::string("int8")}})->cost(1).operations[Arithmetic::int4],
            2 * 128 * 256);
  EXPECT_EQ(layer_of("pruned", {{"sparsity", 0.75}})->cost(2).operations.total(), 2 * 2 * 128 * 64);
  EXPECT_EQ(layer_of("pruned", {{"pattern", std::string("2:4")}})->cost(1).operations.total(), 2 * 128 * 128);
  EXPECT_EQ(layer_of("pruned", {{"pattern", std::string("block")}})->cost(1).operations.total(),
            2 * 128 * 128);
}

// oneDNN's int8 on codes so small that no processor's saturates: what the unsigned form adds comes off again.
TEST(KernelOneDnn, IsExactOnSmallCodes) {
  Problems problems;
  const auto scheme = make_scheme("int8", {}, {37, 1153}, problems);
  Leaf leaf = compress_whole(*scheme, random_matrix(37, 1153, 3)).leaves[0];
  for (int8_t& code : leaf.codes) code = static_cast<int8_t>(code / 3);  // 2 · 255 · 42 fits int16
  const Problem64 problem = make_problem(leaf, 5);
  int kernels = 0;
  for (const Kernel* kernel : test_registry().kernels("cpu")) {
    if (!kernel->name.starts_with("onednn") || !kernel->absent.empty()) continue;
    SCOPED_TRACE(kernel->name);
    check_kernel(*kernel, leaf, problem);
    ++kernels;
  }
  if (kernels == 0) GTEST_SKIP() << "built without oneDNN";
}

// Whichever libraries this build lacks.
TEST(KernelPeers, WhatIsNotBuiltSaysWhichPackageToInstall) {
  for (const Kernel* kernel : test_registry().kernels("cpu")) {
    if (kernel->absent.empty()) continue;
    EXPECT_THAT(kernel->absent, testing::HasSubstr("; install lib")) << kernel->name;
  }
}

TEST(CpuOpsTable, PortableIsAlwaysThere) {
  const auto available = cpu_ops_available();
  ASSERT_FALSE(available.empty());
  EXPECT_STREQ(available.front()->name, "portable");
}

TEST(CpuOpsTable, CeilingsRun) {
  std::vector<float> data(4096, 0.5f);
  for (const CpuOps* ops : cpu_ops_available()) {
    for (const auto read_sum : ops->read_sum) EXPECT_EQ(read_sum(data.data(), 4096), 2048.0f) << ops->name;
    for (Arithmetic kind : kArithmetics) {
      const CpuOps::Probe probe = ops->probe(kind);
      EXPECT_TRUE(std::isfinite(probe.run(1000))) << ops->name;
      EXPECT_GT(probe.operations, 0) << ops->name;
    }
  }
}

// Codes are those of the rule on every instruction set, ties and tails included.
TEST(CpuOpsTable, QuantizeFollowsTheRule) {
  for (int64_t count : {1, 5, 16, 31, 77}) {
    Matrix<float> x = random_matrix(1, count, static_cast<uint64_t>(count));
    x(0, count / 2) = 127.0f;  // the scale becomes 1: halves are ties
    if (count > 2) x(0, 0) = 2.5f, x(0, 1) = -3.5f;
    const Matrix<double> expected = reference_activations(x, ActivationRule::int8_per_token, {0, count});
    for (const CpuOps* ops : cpu_ops_available()) {
      std::vector<int8_t> codes(static_cast<size_t>(count) + 8, 99);
      float scale = 0;
      ops->quantize(x.data.data(), count, codes.data(), &scale);
      for (int64_t k = 0; k < count; ++k)
        EXPECT_EQ(static_cast<double>(codes[static_cast<size_t>(k)]) * scale, expected(0, k))
            << ops->name << " " << k;
      EXPECT_EQ(codes[static_cast<size_t>(count)], 99) << "wrote past the end";
      if (count > 2) {
        EXPECT_EQ(codes[0], 2) << ops->name;
        EXPECT_EQ(codes[1], -4) << ops->name;
      }
    }
  }
}

// Wherever it stands: in a whole vector or behind the last.
TEST(CpuOpsTable, WhatIsNotFiniteHasNoScale) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr int64_t kCount = 77;
  for (const float odd : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
    for (const int64_t at : {int64_t{0}, int64_t{37}, kCount - 1}) {
      Matrix<float> x = random_matrix(1, kCount, 5);
      x(0, at) = odd;
      EXPECT_TRUE(std::isnan(reference_activations(x, ActivationRule::int8_per_token, {0, kCount})(0, 1)));
      for (const CpuOps* ops : cpu_ops_available()) {
        std::vector<int8_t> codes(kCount, 99);
        float scale = 0;
        ops->quantize(x.data.data(), kCount, codes.data(), &scale);
        EXPECT_TRUE(std::isnan(scale)) << ops->name << ": " << odd << " at " << at;
        EXPECT_EQ(codes, std::vector<int8_t>(kCount, 0)) << ops->name;
      }
    }
  }
}

// bfloat16 too, to the bit: ties, tails, tiny, huge and odd numbers.
TEST(CpuOpsTable, RoundFollowsTheRule) {
  constexpr float kMost = std::numeric_limits<float>::max(),
                  kInfinity = std::numeric_limits<float>::infinity();
  for (size_t count : {1, 5, 16, 31, 77}) {
    Matrix<float> x = random_matrix(1, static_cast<int64_t>(count), count);
    const std::vector<float> odd = {1 + 0x1p-8f, 1 + 0x3p-8f, -kMost, kInfinity,  std::nanf(""), 1e-30f,
                                    0.9e-30f,    1e-40f,      -0.0f,  0x1.ffp-5f, -kInfinity};
    std::copy_n(odd.begin(), std::min(count, odd.size()), x.data.begin());
    for (const CpuOps* ops : cpu_ops_available()) {
      std::vector<uint16_t> rounded(count + 8, 99);
      ops->round_b16(x.data.data(), static_cast<int64_t>(count), rounded.data());
      for (size_t k = 0; k < count; ++k) {
        const float found = std::bit_cast<float>(static_cast<uint32_t>(rounded[k]) << 16);
        const float expected = bf16_activation(x.data[k]);
        EXPECT_TRUE(found == expected || (std::isnan(found) && std::isnan(expected)))
            << ops->name << ": " << x.data[k] << " became " << found;
      }
      EXPECT_EQ(rounded[count], 99) << "wrote past the end";
    }
  }
}

}  // namespace
}  // namespace lamina

// Random shapes, tokens, threads and extreme activations, from fixed seeds, on every instruction set that the
// processor has: what no hand-picked list of sizes thinks of.
#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/ops.hpp"
#include "kernels/reference.hpp"
#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

constexpr uint64_t kDraws = 4;  // of every scheme
constexpr int64_t kFewTokens = 40;
constexpr int64_t kMostTokens = 140;  // past where any kernel begins to do otherwise
constexpr int64_t kWidestUnit = 128;  // columns: some width among so many suits every scheme

class Draw {
 public:
  explicit Draw(uint64_t seed) : generator_(seed) {}
  int64_t from(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(generator_);
  }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[from(0, static_cast<int64_t>(values.size()) - 1)];
  }

 private:
  std::mt19937_64 generator_;
};

// Odd sizes around the panels' and blocks' edges, and now and then more columns than a block of them has.
Shape draw_shape(Draw& draw) {
  const int64_t rows =
      draw.one_of<int64_t>({1, draw.from(2, 20), draw.from(2, 70), 2 * draw.from(10, 60) + 1});
  const int64_t cols =
      draw.one_of<int64_t>({draw.from(1, 40), 2 * draw.from(1, 300) + 1, 2 * draw.from(1, 300) + 1,
                            draw.from(500, 530), draw.from(2040, 2300)});
  return {rows, cols};
}

// The scheme over a random shape, its columns moved on to what it takes.
std::unique_ptr<Scheme> draw_scheme(const SchemeCase& one, Draw& draw, Shape* shape) {
  for (;;) {
    const Shape drawn = draw_shape(draw);
    for (int64_t more = 0; more < kWidestUnit; ++more) {
      *shape = {drawn.out_features, drawn.in_features + more};
      Problems problems;
      if (auto scheme = make_scheme(one.type, one.keys, *shape, problems)) return scheme;
    }
  }
}

// Tokens of which each is ordinary, all zero, dominated by one huge value, denormal, or close below and above
// what the activation rule takes for zero.
Matrix<float> draw_activations(int64_t tokens, int64_t cols, Draw& draw) {
  Matrix<float> x = random_matrix(tokens, cols, static_cast<uint64_t>(draw.from(0, 1 << 30)));
  for (int64_t t = 0; t < tokens; ++t) {
    float scale = 1;
    switch (draw.from(0, 7)) {
      case 0:
        scale = 0;
        break;
      case 1:
        x(t, draw.from(0, cols - 1)) = draw.one_of({1e4f, -1e12f, 1e25f});
        break;
      case 2:
        scale = 1e-39f;
        break;
      case 3:
        scale = 1e-44f;
        break;
      case 4:
        scale = 0.5e-30f;
        break;
      default:
        break;
    }
    for (int64_t k = 0; k < cols; ++k) x(t, k) *= scale;
  }
  return x;
}

// The reference, its tolerance widened by what denormals do to sums in float32: each product and sum of them
// is off by up to half the smallest one.
ReferenceProduct extreme_reference(const Leaf& leaf, const Matrix<float>& activations) {
  ReferenceProduct reference = reference_of(leaf, activations);
  for (double& magnitudes : reference.magnitudes.data) {
    if (magnitudes == 0) continue;  // exactly zero is asked for
    magnitudes += (static_cast<double>(leaf.cols) + 4) * std::numeric_limits<float>::denorm_min() /
                  (kCheckFactor * kFloat32Epsilon);
  }
  return reference;
}

// By every kernel that takes the leaf; `fast`: one beside the slow reference does.
void check(const Leaf& leaf, bool fast, const Matrix<float>& activations, const LayerOptions& options,
           int threads) {
  const ReferenceProduct reference = extreme_reference(leaf, activations);
  int kernels = 0;
  for (const CpuOps* ops : cpu_ops_available()) {
    set_cpu_ops(ops);
    for (const Kernel* kernel : test_registry().kernels("cpu")) {
      if (!kernel->absent.empty() || !kernel->refuses(leaf).empty()) continue;
      if (!uses_table(*kernel) && ops != cpu_ops_available().front()) continue;
      if (kernel->name != "reference") ++kernels;
      const std::unique_ptr<Layer> layer = kernel->make(leaf, options);
      Stream stream{threads};
      GuardedOutput output(activations.rows * leaf.rows);
      layer->forward(activations.data.data(), output.y(), activations.rows, stream);
      EXPECT_TRUE(output.intact()) << kernel->name << " on " << ops->name << " wrote beside y";
      EXPECT_LE(worst_error(output.y(), activations.rows, reference), 1.0)
          << kernel->name << " on " << ops->name;
    }
  }
  EXPECT_EQ(kernels > 0, fast);
}

class RandomCases : public testing::TestWithParam<SchemeCase> {
 protected:
  void TearDown() override { set_cpu_ops(nullptr); }
};

TEST_P(RandomCases, MatchTheReference) {
  for (uint64_t seed = 1; seed <= kDraws; ++seed) {
    // Not every scheme shall draw the same sizes.
    uint64_t mixed = seed;
    for (char letter : GetParam().name) mixed = mixed * 31 + static_cast<uint64_t>(letter);
    Draw draw(mixed);
    Shape shape;
    const std::unique_ptr<Scheme> scheme = draw_scheme(GetParam(), draw, &shape);
    const Canonical weights =
        compress_whole(*scheme, random_matrix(shape.out_features, shape.in_features, mixed, 0.05f));
    for (const Leaf& leaf : weights.leaves) {
      const int64_t tokens = draw.one_of<int64_t>(
          {1, draw.from(2, 8), draw.from(1, kFewTokens), draw.from(kFewTokens + 1, kMostTokens)});
      const LayerOptions options{.max_tokens = tokens + draw.one_of<int64_t>({0, 0, 7}),
                                 .threads = draw.one_of({1, 2, 3, 5, 9})};
      const int threads = draw.one_of({1, 2, 3, 5, 9});
      SCOPED_TRACE(scheme->name() + ", seed " + std::to_string(seed) + ": " + std::to_string(leaf.rows) +
                   "×" + std::to_string(leaf.cols) + ", " + std::to_string(tokens) + " tokens, " +
                   std::to_string(threads) + " threads of " + std::to_string(options.threads));
      check(leaf, GetParam().fast, draw_activations(tokens, leaf.cols, draw), options, threads);
    }
  }
}

// Every code as large as it can be, of weights and of activations, all of one sign or changing: 8-bit
// products that are added up in 16 bits, or four of them at once, would overflow here first.
TEST_P(RandomCases, LargestCodesDoNotSaturate) {
  constexpr int64_t kCols = 4096;  // a multiple of every unit
  const Shape shape{37, kCols};
  Problems problems;
  const std::unique_ptr<Scheme> scheme = make_scheme(GetParam().type, GetParam().keys, shape, problems);
  if (!scheme) GTEST_SKIP() << "takes no " << shape.out_features << " rows";
  for (const bool changing : {false, true}) {
    Matrix<float> w(shape.out_features, kCols);
    for (int64_t i = 0; i < w.rows; ++i)
      for (int64_t j = 0; j < w.cols; ++j) w(i, j) = changing && (i + j) % 3 == 0 ? -1.0f : 1.0f;
    for (const Leaf& leaf : compress_whole(*scheme, w).leaves)
      for (const int64_t tokens : {int64_t{1}, int64_t{5}, int64_t{70}}) {
        Matrix<float> x(tokens, leaf.cols);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t k = 0; k < leaf.cols; ++k) x(t, k) = changing && (t + k) % 5 == 0 ? -1.0f : 1.0f;
        check(leaf, GetParam().fast, x, {tokens, 2}, 2);
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, RandomCases, testing::ValuesIn(scheme_cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace lamina

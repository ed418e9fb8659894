// gram and randomized on GPUs: what the same methods find on the host, the same bits on any number of GPUs.
// Skipped, saying so, without one.
#include <gtest/gtest.h>

#include <cmath>

#include "distributed/svd/gpu_slab.hpp"
#include "kernels/cuda/factor_ops.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

class GpuSvd : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    std::string why;
    options_ = {.method = GetParam(), .oversampling = 12, .seed = 7, .threads = 2, .device = "cuda"};
    options_.transport = gpu_transport(why);
    if (!why.empty()) GTEST_SKIP() << "no GPU for each rank: " << why;
  }

  // In both layouts on all ranks, and on each rank's GPU alone: bitwise the same.
  SvdResult everywhere(const Matrix<float>& a, const RankRule& rule) {
    const Shape shape{a.rows, a.cols};
    const auto self = make_self_communicator();
    SvdOptions own = options_;
    own.transport = nullptr;
    const SvdResult alone = factorize(spread(a, Layout::rows, *self), rule, own, *self);
    SvdResult result;
    for (const Layout layout : {Layout::columns, Layout::rows}) {
      const SpreadMatrix part = spread(a, layout, world());
      result = factorize(part, rule, options_, world());
      EXPECT_EQ(result.singular_values, alone.singular_values);
      EXPECT_EQ(result.error_bound, alone.error_bound);
      const WholeFactors factors = whole(result, shape, world());
      EXPECT_EQ(factors.u.data, alone.u.data);
      EXPECT_EQ(factors.v.data, alone.v.data);
      EXPECT_LE(residual(part, result, world(), 1), result.error_bound);
      EXPECT_LT(orthogonality(factors.u, result.singular_values), 1e-6);
      EXPECT_LT(orthogonality(factors.v, result.singular_values), 1e-6);
    }
    return result;
  }

  // And about as good as the host's, which iterates in fewer bits where its CPU has AMX.
  void expect_as_on_host(const Matrix<float>& a, const RankRule& rule) {
    const SvdResult result = everywhere(a, rule);
    SvdOptions host = options_;
    host.device = "cpu";
    const SpreadMatrix part = spread(a, Layout::rows, world());
    const SvdResult expected = factorize(part, rule, host, world());
    ASSERT_EQ(result.singular_values.size(), expected.singular_values.size());
    EXPECT_EQ(result.computed_by, expected.computed_by);
    for (size_t i = 0; i < expected.singular_values.size(); ++i)
      EXPECT_NEAR(result.singular_values[i], expected.singular_values[i], 1e-4 * expected.singular_values[0]);
    EXPECT_NEAR(result.error_bound, expected.error_bound, 1e-5);
    EXPECT_NEAR(residual(part, result, world(), 1), residual(part, expected, world(), 1), 1e-5);
  }

  SvdOptions options_;
};

INSTANTIATE_TEST_SUITE_P(Methods, GpuSvd, testing::Values("gram", "randomized"));

TEST_P(GpuSvd, FindsWhatTheHostFinds) {
  struct Case {
    int64_t n, k, rank;
    double decay;
  };
  for (const auto& [n, k, rank, decay] :
       {Case{300, 420, 24, 0.5}, Case{420, 300, 24, 0.5}, Case{515, 390, 40, 1.0}, Case{390, 900, 270, 0.5},
        Case{512, 512, 8, 0.2}, Case{131, 192, 131, 0.5}, Case{1, 50, 1, 0}, Case{50, 1, 1, 0},
        Case{1, 1, 1, 0}, Case{3, 1300, 2, 0.5}, Case{1300, 3, 3, 0.5}, Case{2500, 700, 32, 2.0},
        Case{300, 5000, 20, 0.7}}) {
    SCOPED_TRACE(std::to_string(n) + "x" + std::to_string(k));
    expect_as_on_host(decaying(n, k, decay, std::min<int64_t>({n, k, 300})), {.rank = rank});
  }
}

TEST_P(GpuSvd, MeetsRules) {
  const Matrix<float> a = decaying(400, 600, 0.8, 300);
  expect_as_on_host(a, {.error = 0.3});
  expect_as_on_host(a, {.energy = 0.99});
  expect_as_on_host(a, {.ratio = 0.2});
}

TEST_P(GpuSvd, DirectionsThatAreNotThereAreZeros) {
  // Small whole numbers: products of rank 3 are exact.
  Matrix<float> low(300, 433);
  for (int64_t i = 0; i < low.rows; ++i) {
    for (int64_t j = 0; j < low.cols; ++j)
      low(i, j) = static_cast<float>(i % 5 - 2 + (i % 7 - 3) * (j % 3) + (i % 2) * (j % 11));
  }
  const SvdResult result = everywhere(low, {.rank = 9});
  ASSERT_EQ(result.singular_values.size(), 9u);
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(result.singular_values[i] > 0, i < 3) << i;
  EXPECT_EQ(everywhere(Matrix<float>(300, 400), {.rank = 5}).error_bound, 0);
}

TEST_P(GpuSvd, KeepsSteepSpectraAndExtremeMagnitudes) {
  std::vector<double> sigma;
  for (int i = 0; i < 36; ++i) sigma.push_back(std::pow(10.0, -0.25 * i));
  const Matrix<float> steep = with_spectrum(340, 470, sigma);
  const SvdResult result = everywhere(steep, {.rank = 36});
  for (size_t i = 0; i < 20; ++i) EXPECT_NEAR(result.singular_values[i], sigma[i], 1e-6);
  Matrix<float> scaled = decaying(300, 400, 0.5, 200);
  const double bound = everywhere(scaled, {.rank = 20}).error_bound;
  for (const int power : {-110, 100}) {
    Matrix<float> far = scaled;
    for (float& w : far.data) w = std::ldexp(w, power);
    EXPECT_NEAR(everywhere(far, {.rank = 20}).error_bound, bound, 1e-6);
  }
}

// What a scheme is given: no code may depend on how many ranks, and so GPUs, made it.
TEST_P(GpuSvd, FactorsOfSchemesAreTheSameOnAnyRanks) {
  const Matrix<float> a = decaying(300, 420, 0.5, 200);
  const auto self = make_self_communicator();
  const SpreadMatrix whole_part = spread(a, Layout::rows, *self), part = spread(a, Layout::rows, world());
  const FactorRequest request{.rule = {.rank = 24}, .method = GetParam(), .device = "cuda"};
  const Factors alone =
      make_factorizer(*self, {})->factorize({whole_part.local, 0, whole_part.shape}, request, 7);
  const auto gpus = [&]() -> Transport& { return *options_.transport; };
  const int64_t begin =
      partition(a.rows, world().size(), kRowBlock)[static_cast<size_t>(world().rank())].begin;
  const Factors found =
      make_factorizer(world(), {}, {}, gpus)->factorize({part.local, begin, part.shape}, request, 7);
  EXPECT_EQ(found.v.data, alone.v.data);
  for (int64_t i = 0; i < found.u.rows; ++i)
    for (int64_t j = 0; j < found.u.cols; ++j) ASSERT_EQ(found.u(i, j), alone.u(begin + i, j)) << i;
  EXPECT_NEAR(found.error, alone.error, 1e-12);
  EXPECT_LE(found.promise.error, found.promise.bound);
}

// Sums of products over ranks, against float64 sums in order; more columns than a tile has.
TEST(GpuSlab, GramIsExactAcrossTiles) {
  std::string why;
  Transport* const transport = gpu_transport(why);
  if (!why.empty()) GTEST_SKIP() << "no GPU for each rank: " << why;
  const Matrix<float> a = random_matrix(2300, 2100, 3);
  const SpreadMatrix part = spread(a, Layout::rows, world());
  TimedCommunicator comm(world());
  const svd::Input input{part.shape, part.distribution, part.local, 1.0, 1.0};
  svd::GpuSlab slab(input, {.device = "cuda", .transport = transport}, comm);
  const Buffer gram = slab.gram();
  Matrix<double> found(2100, 2100);
  slab.device().download(found.data.data(), gram.data(), gram.bytes());
  for (const auto& [i, j] : {std::pair{0, 0}, std::pair{5, 2099}, std::pair{2047, 2048},
                             std::pair{2099, 2099}, std::pair{1000, 1001}}) {
    double sum = 0, magnitude = 0;
    for (int64_t k = 0; k < a.rows; ++k) {
      const double term = static_cast<double>(a(k, i)) * a(k, j);
      sum += term;
      magnitude += std::abs(term);
    }
    EXPECT_NEAR(found(i, j), sum, 1e-12 * magnitude + 1e-13) << i << ", " << j;
  }
}

}  // namespace
}  // namespace lamina

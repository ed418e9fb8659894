// What every method must do with layouts and bad input: the same on every rank.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <new>

#include "distributed/forwarding_communicator.hpp"
#include "distributed/svd/method.hpp"
#include "distributed/svd/sketch_eigen.hpp"
#include "distributed/svd/tall.hpp"
#include "tests/distributed/svd_support.hpp"

namespace lamina {
namespace {

using namespace lamina::test;

// Methods that this build and the ranks' devices can run.
std::vector<SvdOptions> runnable() {
  std::vector<SvdOptions> all;
  std::string why;
  Transport* const transport = gpu_transport(why);
  for (const SvdMethod& method : svd_methods()) {
    if (method.absent.empty()) all.push_back({.method = method.name});
    if (method.gpu_bytes != nullptr && why.empty())
      all.push_back({.method = method.name, .device = "cuda", .transport = transport});
  }
  return all;
}

// For messages.
std::string name_of(const SvdOptions& options) {
  return options.method + " " + options.device;
}

// All ranks; each for itself where the method takes one.
Communicator& ranks_of(const SvdOptions& options) {
  static const auto self = make_self_communicator();
  const SvdMethod* named = find_svd_method(options.method);
  return named != nullptr && named->one_rank ? *self : world();
}

std::string failure(const Matrix<float>& a, const RankRule& rule, const SvdOptions& options,
                    Communicator& comm) {
  return agreed_failure(world(), [&] { factorize(spread(a, Layout::rows, comm), rule, options, comm); });
}

std::string failure(const Matrix<float>& a, const RankRule& rule, const SvdOptions& options = {}) {
  return failure(a, rule, options, ranks_of(options));
}

TEST(SvdInput, EveryMethodBoundsItsError) {
  const Matrix<float> wide = decaying(300, 420, 0.5, 200), tall = decaying(420, 300, 0.5, 200);
  for (const SvdOptions& options : runnable()) {
    const std::string method = name_of(options);
    Communicator& comm = ranks_of(options);
    for (const Matrix<float>* a : {&wide, &tall}) {
      for (const Layout layout : {Layout::rows, Layout::columns}) {
        const SpreadMatrix part = spread(*a, layout, comm);
        const SvdResult result = factorize(part, {.rank = 24}, options, comm);
        ASSERT_EQ(result.singular_values.size(), 24u) << method;
        const double error = residual(part, result, comm, 1);
        EXPECT_LE(error, result.error_bound) << method;
        EXPECT_LE(error, 1.02 * optimal_error(exact_singular_values(*a), 24)) << method;
        const WholeFactors factors = whole(result, part.shape, comm);
        EXPECT_LT(orthogonality(factors.u, result.singular_values), 1e-5) << method;
        EXPECT_LT(orthogonality(factors.v, result.singular_values), 1e-5) << method;
      }
    }
  }
}

TEST(SvdInput, ZerosAndConstantsAreFactorised) {
  const Matrix<float> zeros(140, 150);
  Matrix<float> constant(140, 150);
  std::fill(constant.data.begin(), constant.data.end(), 0.25f);
  for (const SvdOptions& options : runnable()) {
    const std::string method = name_of(options);
    Communicator& comm = ranks_of(options);
    const SvdResult none = factorize(spread(zeros, Layout::rows, comm), {.rank = 3}, options, comm);
    EXPECT_EQ(none.singular_values, (std::vector<double>{0, 0, 0})) << method;
    EXPECT_EQ(none.error_bound, 0) << method;
    const SpreadMatrix part = spread(constant, Layout::rows, comm);
    const SvdResult one = factorize(part, {.rank = 2}, options, comm);
    EXPECT_NEAR(one.singular_values[0], 0.25 * std::sqrt(140.0 * 150.0), 1e-4) << method;
    EXPECT_LE(residual(part, one, comm, 1), 1e-5) << method;
    EXPECT_LE(residual(part, one, comm, 1), one.error_bound) << method;
  }
}

TEST(SvdInput, BadRulesFailEverywhereWithTheSameWords) {
  const Matrix<float> a = random_matrix(150, 170, 5);
  const double nan = std::nan("");
  for (const SvdOptions& options : runnable()) {
    EXPECT_NE(failure(a, {}, options).find("one of rank, ratio, error and energy"), std::string::npos);
    EXPECT_NE(failure(a, {.rank = 3, .error = 0.5}, options).find("one of rank"), std::string::npos);
    EXPECT_NE(failure(a, {.rank = -1}, options).find("one of rank"), std::string::npos);
    EXPECT_NE(failure(a, {.energy = 1}, options).find("energy below 1"), std::string::npos);
    for (const RankRule& rule : {RankRule{.ratio = nan}, RankRule{.error = nan}, RankRule{.energy = nan}})
      EXPECT_NE(failure(a, rule, options), "");
    EXPECT_NE(failure(a, {.rank = 151}, options).find("a rank of 1 to 150 for a 150 × 170 matrix, found 151"),
              std::string::npos);
    EXPECT_NE(failure(a, {.ratio = 1e-4}, options).find("found 0"), std::string::npos);
  }
}

TEST(SvdInput, NotFiniteFailsEverywhereWithTheSameWords) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    Matrix<float> a = random_matrix(300, 310, 5);
    a(299, 309) = bad;
    for (const SvdOptions& options : runnable()) {
      EXPECT_NE(failure(a, {.rank = 3}, options).find("expected finite weights"), std::string::npos)
          << name_of(options);
    }
  }
}

TEST(SvdInput, UnknownAndAbsentMethodsAreNamed) {
  const Matrix<float> a = random_matrix(20, 30, 5);
  EXPECT_NE(failure(a, {.rank = 3}, {.method = "jacobi"}).find("found \"jacobi\""), std::string::npos);
  EXPECT_NE(failure(a, {.rank = 3}, {.eigensolver = "jacobi"}).find("found \"jacobi\""), std::string::npos);
  for (const SvdMethod& method : svd_methods()) {
    EXPECT_EQ(find_svd_method(method.name), &method);
    const std::string problem = failure(a, {.rank = 3}, {.method = method.name}, world());
    const std::string expected = !method.absent.empty()                  ? method.absent
                                 : method.one_rank && world().size() > 1 ? "takes one rank"
                                                                         : "";
    EXPECT_NE(problem.find(expected), std::string::npos) << method.name << ": " << problem;
    EXPECT_EQ(problem.empty(), expected.empty()) << method.name;
  }
  EXPECT_EQ(find_svd_method("jacobi"), nullptr);
}

TEST(SvdInput, DevicesAreChecked) {
  const Matrix<float> a = random_matrix(20, 30, 5);
  EXPECT_NE(failure(a, {.rank = 3}, {.device = "tpu"}).find("found \"tpu\""), std::string::npos);
  EXPECT_NE(failure(a, {.rank = 3}, {.method = "lapack", .device = "cuda"}), "");
  std::string why;
  gpu_transport(why);
  const std::string problem = failure(a, {.rank = 3}, {.method = "gram", .device = "cuda"});
  const std::string expected = !why.empty()         ? "on a GPU is absent: "
                               : world().size() > 1 ? "a transport"
                                                    : "";
  EXPECT_NE(problem.find(expected), std::string::npos) << problem;
  EXPECT_EQ(problem.empty(), expected.empty()) << problem;
}

TEST(SvdInput, APartOfAnotherSizeIsRefused) {
  SpreadMatrix a = spread(random_matrix(200, 30, 5), Layout::rows, world());
  if (world().rank() == world().size() - 1) a.local = Matrix<float>(a.local.rows + 1, 30);
  const std::string problem =
      agreed_failure(world(), [&] { factorize(a, {.rank = 3}, SvdOptions{}, world()); });
  EXPECT_NE(problem.find("as this rank's part by rows"), std::string::npos) << problem;
}

TEST(SvdInput, RowsAndColumnsChangeIntoEachOther) {
  for (const Shape shape : {Shape{300, 700}, Shape{1, 5000}, Shape{5000, 1}, Shape{129, 128}}) {
    const Matrix<float> a = random_matrix(shape.out_features, shape.in_features, 9);
    const SpreadMatrix rows = spread(a, Layout::rows, world()), cols = spread(a, Layout::columns, world());
    EXPECT_EQ(redistribute(rows, cols.distribution, world(), 1).local.data, cols.local.data);
    EXPECT_EQ(redistribute(cols, rows.distribution, world(), 1).local.data, rows.local.data);
    EXPECT_EQ(redistribute(rows, rows.distribution, world(), 1).local.data, rows.local.data);
  }
}

TEST(SvdInput, PartsCoverTheMatrix) {
  const Shape shape{777, 333};
  for (const Distribution& distribution :
       {Distribution{}, Distribution{.layout = Layout::columns}, Distribution{Layout::block_cyclic, 2, 3, 64},
        Distribution{Layout::block_cyclic, 6, 1, 100}, Distribution{Layout::block_cyclic, 1, 6, 512}}) {
    int64_t elements = 0;
    for (int rank = 0; rank < 6; ++rank) {
      const Shape part = local_shape(shape, distribution, 6, rank);
      elements += part.out_features * part.in_features;
    }
    EXPECT_EQ(elements, 777 * 333);
  }
}

// Runs out of memory where a factorisation adds up what its ranks have.
class Full final : public ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;
  void all_gather(const void*, void*, const std::vector<int64_t>&) override { throw std::bad_alloc(); }
};

TEST(SvdInput, OutOfMemoryAloneEndsTheMatrixAndNotTheRun) {
  const auto self = make_self_communicator();
  Full full(*self);
  const Matrix<float> a = random_matrix(20, 30, 5);
  EXPECT_NE(failure(a, {.rank = 3}, {}, full).find("out of memory; use fewer"), std::string::npos);
}

// The least sizes that LAPACK's counts refuse, and the largest that they do not.
TEST(SvdInput, LimitsOf32BitsAreWhereTheyAreSaid) {
  EXPECT_NO_THROW(blas_int(svd::sketch_eigen_work(46'338)));
  EXPECT_THROW(blas_int(svd::sketch_eigen_work(46'339)), std::invalid_argument);
  EXPECT_NO_THROW(blas_int(svd::sgesdd_work({23'150, 23'150})));
  for (const int64_t longer : {23'200, 80'000})
    EXPECT_THROW(blas_int(svd::sgesdd_work({23'200, longer})), std::invalid_argument);
}

TEST(SvdInput, SizesAreCountedIn64Bits) {
  const Shape huge{60'000, 80'000};
  EXPECT_EQ(svd::sgesdd_work(huge), 4 * int64_t{60'000} * 60'000 + 7 * 60'000 + 64 * 140'000);
  EXPECT_THROW(blas_int(svd::sgesdd_work(huge)), std::invalid_argument);
  for (const SvdMethod& method : svd_methods()) {
    if (!method.absent.empty()) continue;
    EXPECT_GT(method.memory_bytes(huge, Layout::rows, 60'000, 1, {}), int64_t{8} * 60'000 * 60'000)
        << method.name;
  }
  for (const char* method : {"gram", "randomized"}) {
    const auto gpu_bytes = find_svd_method(method)->gpu_bytes;
    EXPECT_GT(gpu_bytes(huge, 60'000, 1, {}), int64_t{24} * 60'000 * 60'000 + int64_t{4} * 60'000 * 80'000);
    // Eight ranks hold an eighth of the matrix each, and the Gram matrix whole.
    EXPECT_LT(gpu_bytes(huge, 1000, 8, {}), gpu_bytes(huge, 1000, 1, {})) << method;
  }
}

}  // namespace
}  // namespace lamina

// The BLAS computes with the threads of the call, whatever OpenMP's own setting is, and leaves that as it
// was.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <vector>

#include "tests/kernels/kernel_cases.hpp"

namespace lamina {
namespace {

TEST(BlasThreads, AreTheCallsOwn) {
  auto* get = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_num_threads"));
  auto* parallel = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "openblas_get_parallel"));
  if (get == nullptr || parallel == nullptr || parallel() == 0)
    GTEST_SKIP() << "needs OpenBLAS with threads, which says how many it takes";
  const Kernel* kernel = nullptr;
  for (const Kernel* one : test_registry().kernels("cpu"))
    if (one->name == "openblas") kernel = one;
  ASSERT_NE(kernel, nullptr);
  Problems problems;
  const auto scheme = make_scheme("dense", {}, {256, 256}, problems);
  const Canonical weights = compress_whole(*scheme, random_matrix(256, 256, 3));
  const auto layer = kernel->make(weights.leaves[0], {.max_tokens = 64, .threads = 2});
  const Matrix<float> x = random_matrix(64, 256, 5);
  std::vector<float> y(64 * 256);
  const int before = omp_get_max_threads();
  for (int threads : {2, 1, 2}) {
    for (int others : {1, 3}) {
      // As other code in this process may leave it; OpenBLAS follows it at its next call.
      omp_set_num_threads(others);
      Stream stream{threads};
      layer->forward(x.data.data(), y.data(), 64, stream);
      EXPECT_EQ(get(), threads) << "OpenMP had " << others;
      EXPECT_EQ(omp_get_max_threads(), others);
    }
  }
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace lamina

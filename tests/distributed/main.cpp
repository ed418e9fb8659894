// Runs every test on every rank; rank 0 prints, the others speak only of their failures. Works without mpirun
// too.
#include <gtest/gtest.h>

#include <cstdio>
#include <exception>

#include "kernels/cuda/cuda_devices.hpp"
#include "tests/distributed/support.hpp"

namespace lamina::test {
namespace {

Launch* the_launch = nullptr;

class FailuresOnly final : public testing::EmptyTestEventListener {
 public:
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d: %s:%d: %s\n", world().rank(),
                 result.file_name() ? result.file_name() : "?", result.line_number(), result.message());
  }
};

}  // namespace

Communicator& world() {
  return the_launch->world();
}

}  // namespace lamina::test

int main(int argc, char** argv) {
  try {
    lamina::Launch launch(&argc, &argv);
    lamina::test::the_launch = &launch;
    lamina::choose_gpu(launch.world().local_rank());
    testing::InitGoogleTest(&argc, argv);
    if (launch.world().rank() != 0) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new lamina::test::FailuresOnly);
    }
    const int code = static_cast<int>(launch.world().max(RUN_ALL_TESTS()));
    launch.finalize();
    return code;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "distributed_test: %s\n", error.what());
    lamina::Launch::abort(1);
  }
}

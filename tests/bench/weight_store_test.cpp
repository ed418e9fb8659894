#include "bench/weight_store.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.hpp"

namespace lamina {
namespace {

// Of this process, in RAM.
int64_t resident_bytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// A rank that sits a group out must leave its memory to those that run it.
TEST(WeightStore, GivesMemoryBack) {
#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "an allocator of its own";
#endif
  constexpr int64_t kBlock = int64_t{8} << 20;
  constexpr int kBlocks = 48;
  // Having freed one so large, the allocator takes smaller ones from a heap that ends where its last used
  // block does.
  std::make_unique<std::vector<char>>(30 << 20).reset();
  Device& cpu = *find_device("cpu");
  WeightStore store(1);
  std::vector<std::unique_ptr<char[]>> between;  // larger than the gaps that aligning leaves
  const int64_t before = resident_bytes();
  for (int i = 0; i < kBlocks; ++i) {
    const auto block = store.buffer("block " + std::to_string(i), kBlock, cpu);
    cpu.fill(block->data(), 1, kBlock);
    between.emplace_back(new char[3 << 20]);
  }
  ASSERT_GE(resident_bytes() - before, kBlocks * kBlock * 9 / 10);
  store.clear_packed();
  EXPECT_LE(resident_bytes() - before, kBlocks * kBlock / 10);
}

}  // namespace
}  // namespace lamina

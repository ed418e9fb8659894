#include "kernels/buffer.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <new>
#include <utility>

namespace lamina {
namespace {

TEST(Buffer, IsAlignedAndZero) {
  for (int64_t bytes : {1, 63, 64, 4097, 5 << 20}) {
    for (int threads : {1, 3}) {
      const Buffer buffer(bytes, threads);
      EXPECT_EQ(buffer.bytes(), bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
      for (int64_t i = 0; i < bytes; ++i) ASSERT_EQ(buffer.data()[i], std::byte{0}) << i;
    }
  }
}

TEST(Buffer, UntouchedHasItsSize) {
  const Buffer buffer = Buffer::untouched(4097);
  EXPECT_EQ(buffer.bytes(), 4097);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  EXPECT_EQ(Buffer::untouched(0).data(), nullptr);
  EXPECT_THROW(Buffer::untouched(-1), std::bad_alloc);
}

TEST(Buffer, EmptyHasNoData) {
  const Buffer buffer(0);
  EXPECT_EQ(buffer.bytes(), 0);
  EXPECT_EQ(buffer.data(), nullptr);
}

TEST(Buffer, MovesOwnership) {
  Buffer a(256);
  a.as<int32_t>()[3] = 17;
  Buffer b(std::move(a));
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(a.bytes(), 0);
  EXPECT_EQ(b.as<int32_t>()[3], 17);
  Buffer c(64);
  c = std::move(b);
  EXPECT_EQ(c.as<int32_t>()[3], 17);
  EXPECT_EQ(c.bytes(), 256);
  Buffer& same = c;
  c = std::move(same);
  EXPECT_EQ(c.as<int32_t>()[3], 17);
}

int64_t resident_pages() {
  std::ifstream statm("/proc/self/statm");
  int64_t all = 0, resident = 0;
  statm >> all >> resident;
  return resident;
}

TEST(PagedVector, HoldsWhatItIsGivenOnHugePagesAndSmall) {
  for (const int64_t count : {0, 1, 1000, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 7'000'001}) {
    PagedVector<uint8_t> numbers(static_cast<size_t>(count));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(numbers.data()) % 64, 0u);
    for (size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], 0) << i;
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<uint8_t>(i * 7);
    numbers.resize(numbers.size() + 3'000'000);
    const PagedVector<uint8_t> moved = std::move(numbers);
    for (size_t i = 0; i < moved.size(); ++i)
      ASSERT_EQ(moved[i], static_cast<int64_t>(i) < count ? static_cast<uint8_t>(i * 7) : 0) << i;
  }
}

TEST(PagedVector, GivesLargeBlocksBackAndTakesNoMoreThanAsked) {
#if defined(__SANITIZE_ADDRESS__) || !defined(__linux__)
  GTEST_SKIP() << "the address sanitizer keeps what is freed";
#endif
  { const PagedVector<char> warm(8 << 20); }
  const int64_t before = resident_pages(), page = 4096, bytes = (5 << 20) + 100;
  if (before == 0) GTEST_SKIP() << "no /proc here";
  constexpr int kBlocks = 6;
  {
    std::vector<PagedVector<char>> blocks;
    for (int i = 0; i < kBlocks; ++i) blocks.emplace_back(static_cast<size_t>(bytes));
    // The first goes, and nothing that lies after it keeps it.
    blocks.erase(blocks.begin());
    const int64_t held = (resident_pages() - before) * page;
    EXPECT_GE(held, (kBlocks - 1) * bytes - (1 << 20));
    EXPECT_LE(held, (kBlocks - 1) * bytes + (1 << 20));
  }
  EXPECT_LE((resident_pages() - before) * page, 1 << 20);
}

TEST(Buffer, RefusesImpossibleSizes) {
  EXPECT_THROW(Buffer(-1), std::bad_alloc);
  EXPECT_THROW(Buffer(std::numeric_limits<int64_t>::max()), std::bad_alloc);
}

}  // namespace
}  // namespace lamina

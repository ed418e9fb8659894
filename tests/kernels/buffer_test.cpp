#include "kernels/buffer.hpp"

#include <gtest/gtest.h>

#include <cstdint>
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

TEST(Buffer, RefusesImpossibleSizes) {
  EXPECT_THROW(Buffer(-1), std::bad_alloc);
  EXPECT_THROW(Buffer(std::numeric_limits<int64_t>::max()), std::bad_alloc);
}

}  // namespace
}  // namespace lamina

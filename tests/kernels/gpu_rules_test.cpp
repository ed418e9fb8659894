// What is made of a GPU's numbers, of GPUs that are not here: too old, too small, throttled.
#include "kernels/gpu_rules.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lamina {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kGiB = 1 << 30;

TEST(GpuRules, AnOldGpuIsNamedWithWhatIsNeeded) {
  for (const auto& [major, minor] : {std::pair{3, 7}, {7, 0}, {7, 5}})
    EXPECT_THAT(too_old("Tesla V100", major, minor),
                AllOf(HasSubstr("Tesla V100 has compute capability " + std::to_string(major) + "." +
                                std::to_string(minor)),
                      HasSubstr("8.0 or newer is needed")));
  for (const auto& [major, minor] : {std::pair{8, 0}, {8, 9}, {9, 0}, {10, 0}, {12, 1}})
    EXPECT_THAT(too_old("GPU", major, minor), IsEmpty()) << major << "." << minor;
}

TEST(GpuRules, WhatDoesNotFitIsSaidWithBothSizes) {
  EXPECT_THAT(too_little_gpu_memory(0, 0), IsEmpty());
  EXPECT_THAT(too_little_gpu_memory(80 * kGiB, 80 * kGiB), IsEmpty());
  EXPECT_EQ(too_little_gpu_memory(96 * kGiB, 78 * kGiB + kGiB / 2),
            "cuda: needs about 96.0 GiB of device memory, 78.5 GiB are free");
  EXPECT_THAT(too_little_gpu_memory(1, 0), HasSubstr("GiB of device memory"));
}

TEST(GpuRules, ThrottlingIsNamedWhereItIsNotForWantOfWork) {
  EXPECT_THAT(throttle_reasons(0), IsEmpty());
  EXPECT_THAT(throttle_reasons(0x1 | 0x2), IsEmpty());  // idle, application clocks
  EXPECT_THAT(throttle_reasons(0x1 | 0x4), ElementsAre(kPowerCap));
  EXPECT_THAT(throttle_reasons(0x8), ElementsAre("hardware slowdown"));
  EXPECT_THAT(throttle_reasons(0x20 | 0x80), ElementsAre("software thermal slowdown", "power brake"));
  EXPECT_EQ(throttle_reasons(~uint64_t{0}).size(), 5u);
}

}  // namespace
}  // namespace lamina

#include "kernels/gpu_rules.hpp"

#include <fmt/format.h>

namespace lamina {
namespace {

constexpr double kGiB = 1 << 30;
constexpr int kOldestMajor = 8;

// Of nvml.h, whose numbers do not change from version to version.
struct Reason {
  uint64_t bit;
  const char* name;
};
// Without "idle" (1) and "application clocks" (2), which nobody need know.
constexpr Reason kReasons[] = {{0x4, kPowerCap},
                               {0x8, "hardware slowdown"},
                               {0x20, "software thermal slowdown"},
                               {0x40, "hardware thermal slowdown"},
                               {0x80, "power brake"}};

}  // namespace

std::string too_old(const std::string& gpu, int major, int minor) {
  if (major >= kOldestMajor) return "";
  return fmt::format("{} has compute capability {}.{}; {}.0 or newer is needed", gpu, major, minor,
                     kOldestMajor);
}

std::string too_little_gpu_memory(int64_t needed, int64_t free) {
  if (needed <= free) return "";
  return fmt::format("cuda: needs about {:.1f} GiB of device memory, {:.1f} GiB are free",
                     static_cast<double>(needed) / kGiB, static_cast<double>(free) / kGiB);
}

std::vector<std::string> throttle_reasons(uint64_t mask) {
  std::vector<std::string> names;
  for (const Reason& reason : kReasons)
    if ((mask & reason.bit) != 0) names.emplace_back(reason.name);
  return names;
}

}  // namespace lamina

// What follows from what a GPU and its driver say of themselves. Knows no CUDA: any GPU can be tried without
// having it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lamina {

// Why a GPU of this compute capability is not used, whatever the program was built for. Empty: it may be.
std::string too_old(const std::string& gpu, int major, int minor);
// Why a case is skipped before anything is allocated for it: more is needed than is free. Empty: it fits.
std::string too_little_gpu_memory(int64_t needed, int64_t free);
// What NVML's mask of "clocks throttle reasons" means, but for want of work and a clock that was asked for.
std::vector<std::string> throttle_reasons(uint64_t mask);
// The one of them that is no trouble: matrix products run at it all the time.
inline constexpr const char* kPowerCap = "software power cap";

}  // namespace lamina

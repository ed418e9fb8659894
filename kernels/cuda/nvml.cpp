#include "kernels/cuda/nvml.hpp"

#include <dlfcn.h>

#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

// Of nvml.h, whose numbers do not change from version to version.
constexpr int kSuccess = 0;
constexpr unsigned kClockSm = 1;

template <class Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

constexpr const char* kLibrary = "libnvidia-ml.so.1";

}  // namespace

std::string nvidia_driver() {
  void* const library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return "";
  char version[96] = "";
  const auto init = symbol<int (*)()>(library, "nvmlInit_v2");
  const auto shutdown = symbol<int (*)()>(library, "nvmlShutdown");
  const auto ask = symbol<int (*)(char*, unsigned)>(library, "nvmlSystemGetDriverVersion");
  if (init != nullptr && shutdown != nullptr && init() == kSuccess) {
    if (ask == nullptr || ask(version, sizeof version) != kSuccess) version[0] = '\0';
    shutdown();
  }
  dlclose(library);
  return version;
}

Nvml::Nvml(const std::string& pci_bus_id) {
  library_ = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library_ == nullptr) return;
  const auto init = symbol<int (*)()>(library_, "nvmlInit_v2");
  const auto find = symbol<int (*)(const char*, void**)>(library_, "nvmlDeviceGetHandleByPciBusId_v2");
  if (init == nullptr || find == nullptr || init() != kSuccess ||
      find(pci_bus_id.c_str(), &device_) != kSuccess)
    device_ = nullptr;
}

Nvml::~Nvml() {
  if (library_ == nullptr) return;
  if (const auto shutdown = symbol<int (*)()>(library_, "nvmlShutdown")) shutdown();
  dlclose(library_);
}

DeviceState Nvml::state() const {
  DeviceState state;
  if (device_ == nullptr) return state;
  unsigned mhz = 0;
  const auto clock = symbol<int (*)(void*, unsigned, unsigned*)>(library_, "nvmlDeviceGetClockInfo");
  if (clock != nullptr && clock(device_, kClockSm, &mhz) == kSuccess) state.clock_mhz = mhz;
  unsigned long long mask = 0;
  const auto reasons =
      symbol<int (*)(void*, unsigned long long*)>(library_, "nvmlDeviceGetCurrentClocksThrottleReasons");
  if (reasons != nullptr && reasons(device_, &mask) == kSuccess) state.throttled = throttle_reasons(mask);
  return state;
}

}  // namespace lamina

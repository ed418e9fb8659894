#include <fmt/format.h>

#include <fstream>
#include <string>
#include <thread>

#include "kernels/cpu/kernels.hpp"

namespace lamina {
namespace {

// Linux's own name for the processor; other systems go without.
std::string model_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace

DeviceInfo cpu_device_info() {
  DeviceInfo info;
  info.type = "cpu";
  info.available = true;
  const unsigned cores = std::thread::hardware_concurrency();
  info.units.push_back(fmt::format("{}, {} logical cores", model_name(), cores));
  return info;
}

}  // namespace lamina

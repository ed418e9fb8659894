#include "distributed/peak_memory.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace lamina {
namespace {

// A "VmHWM: 123 kB" line of the process's status; -1 where there is none.
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::strtoll(line.c_str() + key.size() + 1, nullptr, 10) * 1024;
  }
  return -1;
}

}  // namespace

PeakMemory::PeakMemory() {
  malloc_trim(0);                                 // what is free but kept would be used again unseen
  std::ofstream("/proc/self/clear_refs") << "5";  // start the high-water mark anew
  before_ = status_bytes("VmRSS");
}

int64_t PeakMemory::bytes() const {
  return before_ < 0 ? 0 : std::max<int64_t>(0, status_bytes("VmHWM") - before_);
}

}  // namespace lamina

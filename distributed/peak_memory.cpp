#include "distributed/peak_memory.hpp"

#include <malloc.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace lamina {
namespace {

constexpr int kLarge = 1 << 20;      // of blocks below, the heap may keep a few megabytes
constexpr int kMostKept = 32 << 20;  // glibc raises its threshold no further itself

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
#ifdef __GLIBC__
  // What is freed goes back at once meanwhile. Else it would be kept, up to tens of megabytes as larger
  // blocks were freed before, and what a piece of work takes depend on what came before it.
  mallopt(M_MMAP_THRESHOLD, kLarge);
  mallopt(M_TRIM_THRESHOLD, 2 * kLarge);
  malloc_trim(0);  // what is free but kept would be used again unseen
#endif
  // The high-water mark starts anew; where it cannot, it is of the whole process.
  std::ofstream mark("/proc/self/clear_refs");
  mark << "5" << std::flush;
  if (mark) before_ = status_bytes("VmRSS");
}

PeakMemory::~PeakMemory() {
#ifdef __GLIBC__
  // As it would be after a large block was freed: what is timed then finds its memory where it was.
  mallopt(M_MMAP_THRESHOLD, kMostKept);
  mallopt(M_TRIM_THRESHOLD, 2 * kMostKept);
#endif
}

int64_t PeakMemory::bytes() const {
  return before_ < 0 ? 0 : std::max<int64_t>(0, status_bytes("VmHWM") - before_);
}

}  // namespace lamina

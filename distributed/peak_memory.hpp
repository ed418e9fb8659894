// How much memory a piece of work takes, as the system counts it.
#pragma once

#include <cstdint>

namespace lamina {

// The process's resident peak above what it held at construction. Linux; 0 elsewhere, and where the
// system does not let the peak start anew. One at a time.
class PeakMemory {
 public:
  PeakMemory();
  ~PeakMemory();
  PeakMemory(const PeakMemory&) = delete;
  PeakMemory& operator=(const PeakMemory&) = delete;
  int64_t bytes() const;

 private:
  int64_t before_ = -1;
};

}  // namespace lamina

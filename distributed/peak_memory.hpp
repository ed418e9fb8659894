// How much memory a piece of work takes, as the system counts it.
#pragma once

#include <cstdint>

namespace lamina {

// The process's resident peak above what it held at construction. Linux; 0 elsewhere.
class PeakMemory {
 public:
  PeakMemory();
  int64_t bytes() const;

 private:
  int64_t before_ = -1;
};

}  // namespace lamina

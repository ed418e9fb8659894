// Devices, streams and what runs on them.
#pragma once

#include <string>
#include <vector>

namespace lamina {

// In-order work on one device. On the CPU calls return when done, and `threads` is the OpenMP team a kernel
// uses.
struct Stream {
  int threads = 1;
};

// A kind of device as `lamina list` shows it.
struct DeviceInfo {
  std::string type;  // "cpu", "cuda"
  bool available = false;
  std::string reason;              // why not, and what to do, when it is not available
  std::vector<std::string> units;  // one line a unit: model, memory
};

}  // namespace lamina

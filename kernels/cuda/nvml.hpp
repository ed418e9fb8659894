// Clocks and throttling, by NVIDIA's management library, which is opened when the program runs: it comes with
// the driver, not with the toolkit.
#pragma once

#include <string>

#include "kernels/device.hpp"

namespace lamina {

// The driver's version, such as 580.65.06; empty where the library does not answer.
std::string nvidia_driver();

class Nvml {
 public:
  // Of the GPU at this PCI bus id. Without the library, or where it does not answer, state() is empty.
  explicit Nvml(const std::string& pci_bus_id);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;
  DeviceState state() const;

 private:
  void* library_ = nullptr;
  void* device_ = nullptr;
};

}  // namespace lamina

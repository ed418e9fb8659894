// CUDA was not built: the same interface, saying so.
#include "kernels/cuda/cuda_devices.hpp"

namespace lamina {

DeviceInfo cuda_device_info() {
  DeviceInfo info;
  info.type = "cuda";
  info.reason = "built without CUDA; configure with the `cuda` preset (needs the CUDA Toolkit's nvcc)";
  return info;
}

Device* cuda_device() {
  return nullptr;
}

void register_cuda_kernels(Registry&) {}

}  // namespace lamina

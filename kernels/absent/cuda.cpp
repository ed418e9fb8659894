// CUDA was not built: the same interface, saying so.
#include "kernels/cuda/cuda_devices.hpp"

namespace lamina {

void choose_gpu(int) {}

const DeviceInfo& cuda_device_info() {
  static const DeviceInfo info = [] {
    DeviceInfo made;
    made.type = "cuda";
    made.reason = "built without CUDA; configure with the `cuda` preset (needs the CUDA Toolkit's nvcc)";
    return made;
  }();
  return info;
}

Device* cuda_device() {
  return nullptr;
}

std::string cuda_bus_id() {
  throw DeviceError("cuda: " + cuda_device_info().reason);
}

void cuda_silu_gate(const float*, void*, InputType, int64_t, int64_t, Stream&) {
  throw DeviceError("cuda: " + cuda_device_info().reason);
}

void register_cuda_kernels(Registry&) {}

}  // namespace lamina

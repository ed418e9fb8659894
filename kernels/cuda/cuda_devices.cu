#include "kernels/cuda/cuda_devices.hpp"

#include <cuda_runtime.h>

#include <cstdio>

namespace lamina {

DeviceInfo cuda_device_info() {
  DeviceInfo info;
  info.type = "cuda";
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    info.reason = status != cudaSuccess ? std::string("no usable GPU: ") + cudaGetErrorString(status)
                                        : "no GPU answers";
    info.reason += "; check that nvidia-smi lists one and that its driver supports this CUDA version";
    return info;
  }
  info.available = true;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    char line[512];
    std::snprintf(line, sizeof line, "%s, compute capability %d.%d, %.1f GiB", properties.name,
                  properties.major, properties.minor,
                  static_cast<double>(properties.totalGlobalMem) / (1 << 30));
    info.units.emplace_back(line);
  }
  return info;
}

}  // namespace lamina

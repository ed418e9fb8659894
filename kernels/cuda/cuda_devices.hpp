// What CUDA says of this machine's GPUs. Built from cuda/ where CUDA is enabled, else from absent/.
#pragma once

#include "kernels/device.hpp"

namespace lamina {

DeviceInfo cuda_device_info();

}  // namespace lamina

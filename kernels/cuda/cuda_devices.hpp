// What the rest of the program sees of CUDA. Built from cuda/ where CUDA is enabled, else from absent/.
#pragma once

#include "kernels/device.hpp"

namespace lamina {

class Registry;

DeviceInfo cuda_device_info();
// Null where no GPU answers. The first call makes its context.
Device* cuda_device();
// One line for each kernel that runs on GPUs; none where CUDA was not built.
void register_cuda_kernels(Registry& registry);

}  // namespace lamina

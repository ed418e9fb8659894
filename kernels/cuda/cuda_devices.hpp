// What the rest of the program sees of CUDA. Built from cuda/ where CUDA is enabled, else from absent/.
#pragma once

#include <string>

#include "kernels/device.hpp"
#include "kernels/layer.hpp"

namespace lamina {

class Registry;

// Which GPU this process uses: by its number among the node's ranks, around the node's GPUs where there are
// more ranks. Touches no GPU. To be called before anything else here; without it, the first GPU.
void choose_gpu(int local_rank);
// Asked of the driver once.
const DeviceInfo& cuda_device_info();
// Null where no GPU answers. The first call makes its context.
Device* cuda_device();
// The PCI bus id of the process's GPU. Throws DeviceError where it has none.
std::string cuda_bus_id();
// hidden[t][i] = silu(gate[t][i])·up[t][i] of gate_up [tokens × 2·width], gates first, as the next layer
// reads it: float32, or bfloat16 or float16 by their activation rules. Puts one launch on the stream; throws
// DeviceError.
void cuda_silu_gate(const float* gate_up, void* hidden, InputType type, int64_t tokens, int64_t width,
                    Stream& stream);
// One line for each kernel that runs on GPUs; none where CUDA was not built.
void register_cuda_kernels(Registry& registry);

}  // namespace lamina

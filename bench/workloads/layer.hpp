#pragma once

#include "bench/workload.hpp"

namespace lamina {

// Y = X·Wᵀ of one layer, sharded or not.
WorkloadType layer_workload();

}  // namespace lamina

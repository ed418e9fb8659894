#pragma once

#include "bench/workload.hpp"

namespace lamina {

// Factorising a layer's weights, spread over ranks: a step is one whole factorisation.
WorkloadType svd_workload();

}  // namespace lamina

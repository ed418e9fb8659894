#pragma once

#include "bench/workload.hpp"

namespace lamina {

// gate_up (column), SiLU-gated activation, down (row), one all-reduce.
WorkloadType mlp_workload();

}  // namespace lamina

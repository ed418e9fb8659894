#pragma once

#include "bench/workload.hpp"

namespace lamina {

// One collective of one size: a step is one call.
WorkloadType collective_workload();

}  // namespace lamina

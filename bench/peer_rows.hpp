// What one row is beside rows of other groups, which are measured apart: other ranks, other methods' ranks.
#pragma once

#include <vector>

#include "bench/record.hpp"

namespace lamina {

// Fills speedup_vs_lapack, speedup_vs_scalapack and scaling_efficiency of rows of workload svd, from ok rows
// of the same launch. For what reads a run: the lines of records.jsonl were written before.
void compare_rows(std::vector<Record>& records);

}  // namespace lamina

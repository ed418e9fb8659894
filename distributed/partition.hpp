// How rows and columns are cut over ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/matrix.hpp"

namespace lamina {

// [0, size) cut into `parts` consecutive ranges at multiples of `unit` (the last end is `size`), as even as
// whole units allow, larger ones first. Ranges are empty where there are more parts than units. Throws
// std::invalid_argument unless size >= 0, parts >= 1 and unit >= 1.
std::vector<Range> partition(int64_t size, int parts, int64_t unit = 1);

}  // namespace lamina

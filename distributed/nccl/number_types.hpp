// The kernels' words for data types and codes.
#pragma once

#include <optional>

#include "distributed/collectives/codec.hpp"
#include "kernels/cuda/compressed.hpp"

namespace lamina {

// None for types that the kernels do not add up.
std::optional<OneshotType> oneshot_type(DType dtype);
PayloadCode payload_code(Payload payload);

}  // namespace lamina

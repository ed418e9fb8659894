// What compression's rates are held to: rounding beside reading, and the Gram beside the BLAS.
#pragma once

#include "kernels/registry.hpp"

namespace lamina {

// compress/read, compress/SCHEME and compress/gram, compress/dsyrk, compress/dgemm, each by SHAPE and
// tTHREADS.
void register_compression(const Registry& registry);

}  // namespace lamina

// The schemes, one file each. Declared together so that register.cpp is the only place that lists them.
#pragma once

#include "kernels/compress/scheme.hpp"

namespace lamina {

SchemeType dense_scheme();
SchemeType int8_scheme();
SchemeType int4_scheme();
SchemeType fp8_scheme();
SchemeType pruned_scheme();
SchemeType lowrank_scheme();
SchemeType sum_scheme();

}  // namespace lamina

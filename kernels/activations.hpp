// The activation rule, one for all devices: a token's int8 codes are q = clamp(rint(x · (127/amax)), ±127)
// and its scale is amax/127, all in float32, rint to nearest with ties to even.
#pragma once

namespace lamina {

// A token (or its part in a row shard) whose largest magnitude is below this quantizes to zeros with scale 0:
// 127/amax would overflow float32. Weights that are quantized follow the same bound.
inline constexpr float kSmallestActivation = 1e-30f;

}  // namespace lamina

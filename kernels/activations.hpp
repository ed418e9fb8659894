// The activation rules, the same on all devices.
//
// int8: a token's codes are q = clamp(rint(x · (127/amax)), ±127) and its scale is amax/127, all in float32,
// rint to nearest with ties to even.
//
// bf16: each activation becomes the nearest bfloat16, ties to even, what is beyond the largest finite one
// that one; below kSmallestActivation it becomes a zero: the processors' bfloat16 instructions take subnormal
// factors and sums for zeros, and with the smallest activations gone none come up beside weights of ordinary
// size. Infinities and NaN stay.
//
// fp8: a token's codes are the e4m3 nearest to x · (448/amax), ties to even, and its scale is amax/448, all
// in float32.
//
// A token (or its part in a row shard) with an infinity or NaN has no scale: int8 and fp8 give it codes 0 and
// scale NaN, so that its outputs are NaN.
//
// f16, which kernels for float16 weights read: each becomes the nearest float16, ties to even, what is beyond
// the largest finite one that one.
#pragma once

namespace lamina {

// A token (or its part in a row shard) whose largest magnitude is below this quantizes to zeros with scale 0:
// 127/amax would overflow float32. Weights that are quantized follow the same bound.
inline constexpr float kSmallestActivation = 1e-30f;

}  // namespace lamina

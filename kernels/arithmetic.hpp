// Apart from layer.hpp, so that the files compiled for one instruction set include no functions with it.
#pragma once

#include <array>

namespace lamina {

// Kinds of multiply-adds that machines have a rate each for, by what is multiplied: float32, bfloat16, int8,
// 4-bit codes by int8, int8 weights of 2:4, which go by vectors of bytes where dense ones go by int16 or
// tiles, and e4m3 by e4m3. Codes that are widened first count as what they are widened to.
enum class Arithmetic { f32, bf16, int8, int4, int8_24, fp8 };
inline constexpr std::array kArithmetics = {Arithmetic::f32,  Arithmetic::bf16,    Arithmetic::int8,
                                            Arithmetic::int4, Arithmetic::int8_24, Arithmetic::fp8};

}  // namespace lamina

// Random numbers of the factorisations' test matrices, from a counter: the same on a CPU and a GPU.
#pragma once

#include <cstdint>

namespace lamina {

// About normal: the sum of four 16-bit uniforms, so that every machine draws the same numbers.
constexpr float sketch_number(uint64_t seed, uint64_t row, uint64_t col) {
  // splitmix64's finaliser over a distinct counter (Steele, Lea, Flood 2014)
  uint64_t z =
      seed * 0x9E3779B97F4A7C15ull + (row << 24 ^ col) * 0xD1B54A32D192ED03ull + 0x8CB92BA72F3D8DD7ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  const int64_t sum =
      static_cast<int64_t>((z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)) - 2 * 65535;
  return static_cast<float>(sum) * (1.0f / 37837.0f);  // the sum's standard deviation
}

}  // namespace lamina

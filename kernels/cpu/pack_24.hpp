// 2:4 weights as the panel_24 functions of CpuOps read them.
#pragma once

#include "kernels/cpu/cpu_layer.hpp"

namespace lamina {

inline constexpr int64_t kChunk24 = 32;  // columns that share a word of indices

struct Packed24 {
  // `value_bytes`: 4, 2 or 1. A leaf of pattern 2:4; throws std::invalid_argument where a group keeps more
  // than 2.
  Packed24(const Leaf& leaf, int64_t value_bytes, int64_t panel_rows, int threads);

  // The panel of `row` (a multiple of panel_rows), from column `col` (a multiple of kChunk24) on.
  const uint8_t* panel(int64_t row, int64_t col) const {
    return data.as<uint8_t>() + row / panel_rows * panel_bytes + col / kChunk24 * chunk_bytes;
  }

  int64_t panel_rows;
  int64_t chunk_bytes;  // of one panel
  int64_t panel_bytes;
  Buffer data;
};

// Why the leaf is not one of 2:4 weights, or empty.
std::string refusal_24(const Leaf& leaf);

}  // namespace lamina

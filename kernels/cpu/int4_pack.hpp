// 4-bit codes in panels, as the panel functions read them; see CpuOps.
#pragma once

#include "kernels/buffer.hpp"
#include "kernels/compress/canonical.hpp"

namespace lamina {

// How 8 columns of a row lie in 4 bytes.
enum class Int4Order {
  columns,  // two's complement, the first column lowest
  halves,   // 8 too large, the first four columns in the bytes' lower halves
};

struct Int4Packed {
  int64_t padded = 0;  // columns, whole groups
  int64_t group = 0, groups = 0;
  int64_t panel_rows = 0;
  int64_t panel_bytes = 0;   // of codes
  int64_t scale_stride = 0;  // from one panel's scales to the next one's
  Buffer codes, scales;

  Int4Packed(const Leaf& leaf, int64_t padded_columns, int64_t rows_of_a_panel, Int4Order order, int threads);

  int64_t bytes() const { return codes.bytes() + scales.bytes(); }
  // Of the panel that begins with `row`, from column `col` on (a group's first).
  const uint8_t* panel_codes(int64_t row, int64_t col) const {
    return codes.as<uint8_t>() + (row * padded + col * panel_rows) / 2;
  }
  const float* panel_scales(int64_t row, int64_t col) const {
    return scales.as<float>() + row * groups + col / group * panel_rows;
  }
};

// Why 4-bit loops do not take this leaf, or empty.
std::string int4_refusal(const Leaf& leaf, ActivationRule rule);

}  // namespace lamina

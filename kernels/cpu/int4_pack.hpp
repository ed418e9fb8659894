// 4-bit codes as the vector loops read them; see CpuOps::int4_block.
#pragma once

#include "kernels/buffer.hpp"
#include "kernels/compress/canonical.hpp"

namespace lamina {

struct Int4Packed {
  int64_t padded = 0;     // columns
  int64_t row_bytes = 0;  // of codes
  int64_t groups = 0;     // scales a row, padding included
  int64_t group = 0;
  Buffer codes, scales;

  // `lanes` words of `word_bits` bits (32 or 16) hold a block; padded is a multiple of the block.
  Int4Packed(const Leaf& leaf, int64_t padded_columns, int64_t lanes, int64_t word_bits, int threads);

  int64_t bytes() const { return codes.bytes() + scales.bytes(); }
  const uint8_t* row_codes(int64_t row) const { return codes.as<uint8_t>() + row * row_bytes; }
  const float* row_scales(int64_t row) const { return scales.as<float>() + row * groups; }
};

// Why 4-bit loops do not take this leaf, or empty.
std::string int4_refusal(const Leaf& leaf, ActivationRule rule);

}  // namespace lamina

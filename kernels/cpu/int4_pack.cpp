#include "kernels/cpu/int4_pack.hpp"

#include <fmt/format.h>

#include <cstring>

#include "kernels/cpu/cpu_layer.hpp"

namespace lamina {

Int4Packed::Int4Packed(const Leaf& leaf, int64_t padded_columns, int64_t lanes, int64_t word_bits,
                       int threads)
    : padded(padded_columns),
      row_bytes(padded_columns / 2),
      groups((padded_columns + leaf.group - 1) / leaf.group),
      group(leaf.group),
      codes(leaf.rows * row_bytes, threads),
      scales(leaf.rows * groups * 4, threads) {
  const int64_t nibbles = word_bits / 4, block = nibbles * lanes, word_bytes = word_bits / 8;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < leaf.rows; ++i) {
    uint8_t* row = codes.as<uint8_t>() + i * row_bytes;
    for (int64_t j = 0; j < leaf.cols; ++j) {
      const int64_t in_block = j % block, nibble = in_block / lanes, word = in_block % lanes;
      // Words are little-endian, as every machine here is: nibble n is in byte n/2, the odd one in its upper
      // half.
      uint8_t* byte = row + j / block * block / 2 + word * word_bytes + nibble / 2;
      const auto code = static_cast<uint8_t>(leaf.codes[static_cast<size_t>(i * leaf.cols + j)] & 15);
      *byte = static_cast<uint8_t>(*byte | code << (nibble % 2 * 4));
    }
    if (leaf.cols > 0)
      std::memcpy(scales.as<float>() + i * groups, leaf.scales.data() + i * leaf.groups(),
                  static_cast<size_t>(leaf.groups()) * 4);
  }
}

std::string int4_refusal(const Leaf& leaf, ActivationRule rule) {
  if (std::string why = kind_refusal(leaf, 4, rule); !why.empty()) return why;
  if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
  if (leaf.group != 32 && leaf.group != 64 && leaf.group != 128)
    return fmt::format("multiplies groups of 32, 64 or 128, not {}", leaf.group);
  return native_refusal(leaf);
}

}  // namespace lamina

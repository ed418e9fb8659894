#include "kernels/cpu/int4_pack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

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
  // Where a block's columns go: the divisions are done once, not for every weight. Words are little-endian,
  // as every machine here is: nibble n is in byte n/2, the odd one in its upper half.
  std::vector<int64_t> byte_of(static_cast<size_t>(block));
  std::vector<int> shift_of(static_cast<size_t>(block));
  for (int64_t j = 0; j < block; ++j) {
    const int64_t nibble = j / lanes, word = j % lanes;
    byte_of[static_cast<size_t>(j)] = word * word_bytes + nibble / 2;
    shift_of[static_cast<size_t>(j)] = static_cast<int>(nibble % 2 * 4);
  }
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < leaf.rows; ++i) {
    uint8_t* row = codes.as<uint8_t>() + i * row_bytes;
    const int8_t* source = leaf.codes.data() + i * leaf.cols;
    for (int64_t begin = 0; begin < leaf.cols; begin += block, row += block / 2) {
      const int64_t count = std::min(block, leaf.cols - begin);
      for (int64_t j = 0; j < count; ++j) {
        uint8_t& byte = row[byte_of[static_cast<size_t>(j)]];
        byte = static_cast<uint8_t>(byte | (source[begin + j] & 15) << shift_of[static_cast<size_t>(j)]);
      }
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

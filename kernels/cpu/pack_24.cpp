#include "kernels/cpu/pack_24.hpp"

#include <fmt/format.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace lamina {
namespace {

constexpr int64_t kSlots = kChunk24 / 2;  // kept weights of a row's chunk

int64_t chunk_bytes_of(int64_t value_bytes, int64_t panel_rows) {
  return panel_rows * (4 + kSlots * value_bytes);
}

// One weight as it is stored: float32, bfloat16, or sign and magnitude of a code.
uint32_t stored(const Leaf& leaf, size_t at, int64_t value_bytes) {
  if (value_bytes == 1) {
    const int code = leaf.codes[at];
    return static_cast<uint32_t>(std::abs(code)) | (code < 0 ? 0x80u : 0u);
  }
  const auto bits = std::bit_cast<uint32_t>(leaf.values[at]);
  return value_bytes == 2 ? bits >> 16 : bits;
}

bool is_kept(const Leaf& leaf, size_t at) {
  if (!leaf.mask.empty()) return leaf.mask[at] != 0;
  return leaf.codes.empty() ? leaf.values[at] != 0 : leaf.codes[at] != 0;
}

}  // namespace

Packed24::Packed24(const Leaf& leaf, int64_t value_bytes, int64_t rows_of_panel, int threads)
    : panel_rows(rows_of_panel),
      chunk_bytes(chunk_bytes_of(value_bytes, panel_rows)),
      panel_bytes((leaf.cols + kChunk24 - 1) / kChunk24 * chunk_bytes),
      data(Buffer::untouched((leaf.rows + panel_rows - 1) / panel_rows * panel_bytes)) {
  std::atomic<bool> too_many = false;
  const int64_t word_bytes = 4 * panel_rows;    // of a panel's words
  const int64_t word_values = 4 / value_bytes;  // of a row's word
  const auto pack_row = [&](int64_t row) {
    uint8_t* to = data.as<uint8_t>() + row / panel_rows * panel_bytes + row % panel_rows * 4;
    for (int64_t col = 0; col < leaf.cols; col += kChunk24, to += chunk_bytes) {
      uint32_t indices = 0;
      for (int64_t group = col; group < std::min(col + kChunk24, leaf.cols); group += 4) {
        int64_t slot = (group - col) / 2, end = slot + 2;
        for (int64_t j = 0; j < 4; ++j) {
          const auto at = static_cast<size_t>(row * leaf.cols + group + j);
          if (!is_kept(leaf, at)) continue;
          if (slot == end) {
            too_many = true;
            break;
          }
          // Of bytes, each step of the loop takes one index from every byte of the word.
          const int64_t bit = value_bytes == 1 ? 8 * (slot % 4) + 2 * (slot / 4) : 2 * slot;
          indices |= static_cast<uint32_t>(j) << bit;
          const uint32_t value = stored(leaf, at, value_bytes);
          std::memcpy(to + (1 + slot / word_values) * word_bytes + slot % word_values * value_bytes, &value,
                      static_cast<size_t>(value_bytes));
          ++slot;
        }
      }
      std::memcpy(to, &indices, sizeof indices);
    }
  };
  pack_rows(leaf.rows, panel_rows, threads, [&](Range rows) {
    auto* first = data.as<uint8_t>() + rows.begin / panel_rows * panel_bytes;
    std::memset(first, 0, static_cast<size_t>((rows.size() + panel_rows - 1) / panel_rows * panel_bytes));
    for (int64_t row = rows.begin; row < rows.end; ++row) pack_row(row);
  });
  if (too_many) throw std::invalid_argument("2:4 weights: expected at most 2 kept of every 4, found more");
}

std::string refusal_24(const Leaf& leaf) {
  const Pattern& pattern = leaf.pattern;
  if (pattern.kind != PatternKind::n_of_m || pattern.n != 2 || pattern.m != 4)
    return "multiplies weights pruned 2:4";
  if (leaf.cols % 4 != 0) return fmt::format("takes columns in multiples of 4, not {}", leaf.cols);
  return native_refusal(leaf);
}

}  // namespace lamina

#include "kernels/cpu/int4_pack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_layer.hpp"

namespace lamina {

namespace {

uint32_t pack_columns(const int8_t* codes, Int4Order order) {
  uint32_t word = 0;
  for (int j = 0; j < 8; ++j) {
    const auto code = static_cast<uint32_t>(codes[j]);
    word |=
        order == Int4Order::columns ? (code & 15) << (4 * j) : ((code + 8) & 15) << (j % 4 * 8 + j / 4 * 4);
  }
  return word;
}

}  // namespace

Int4Packed::Int4Packed(const Leaf& leaf, int64_t padded_columns, int64_t rows_of_a_panel, Int4Order order,
                       int threads)
    : padded(padded_columns),
      group(leaf.group),
      groups((padded_columns + leaf.group - 1) / leaf.group),
      panel_rows(rows_of_a_panel),
      panel_bytes(rows_of_a_panel * padded_columns / 2),
      scale_stride(rows_of_a_panel * groups),
      codes(Buffer::untouched(round_up(leaf.rows, rows_of_a_panel) * padded_columns / 2)),
      scales(Buffer::untouched(round_up(leaf.rows, rows_of_a_panel) * groups * 4)) {
  pack_rows(leaf.rows, panel_rows, threads, [&](Range rows) {
    for (int64_t first = rows.begin; first < rows.end; first += panel_rows) {
      std::memset(codes.as<uint8_t>() + first * padded / 2, 0, static_cast<size_t>(panel_bytes));
      std::memset(scales.as<float>() + first * groups, 0, static_cast<size_t>(scale_stride) * 4);
      for (int64_t r = 0; r < std::min(panel_rows, leaf.rows - first); ++r) {
        const int8_t* row = leaf.codes.data() + (first + r) * leaf.cols;
        uint8_t* to = codes.as<uint8_t>() + first * padded / 2 + 4 * r;
        for (int64_t i = 0; i < padded; i += 8, to += 4 * panel_rows) {
          int8_t some[8] = {};  // past the columns: zeros, in either order's sense
          if (i < leaf.cols)
            std::memcpy(some, row + i, static_cast<size_t>(std::min<int64_t>(8, leaf.cols - i)));
          const uint32_t word = pack_columns(some, order);
          std::memcpy(to, &word, 4);  // little-endian, as every machine here is
        }
        for (int64_t g = 0; g < leaf.groups() && leaf.cols > 0; ++g)
          scales.as<float>()[first * groups + g * panel_rows + r] =
              leaf.scales[static_cast<size_t>((first + r) * leaf.groups() + g)];
      }
    }
  });
}

std::string int4_refusal(const Leaf& leaf, ActivationRule rule) {
  if (std::string why = kind_refusal(leaf, 4, rule); !why.empty()) return why;
  if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
  if (leaf.group != 32 && leaf.group != 64 && leaf.group != 128)
    return fmt::format("multiplies groups of 32, 64 or 128, not {}", leaf.group);
  return native_refusal(leaf);
}

}  // namespace lamina

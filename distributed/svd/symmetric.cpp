#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

SymmetricTiles::SymmetricTiles(int64_t size) : size_(size) {
  int64_t total = 0;
  for (int64_t row = 0; row < tiles(); ++row) total += side(row) * (size - row * kSide);
  data.resize(static_cast<size_t>(total));
}

void SymmetricTiles::copy(Range rows, Range cols, double* to, int64_t stride) const {
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    double* out = to + (i - rows.begin) * stride - cols.begin;
    const int64_t tile_row = i / kSide, in_row = i % kSide;
    for (int64_t j = cols.begin; j < cols.end;) {
      const int64_t tile_col = j / kSide, end = std::min(cols.end, (tile_col + 1) * kSide);
      const int64_t base = tile_col * kSide;
      if (tile_col > tile_row) {
        const double* from = tile(tile_row, tile_col) + in_row * side(tile_col);
        std::copy(from + (j - base), from + (end - base), out + j);
      } else if (tile_col < tile_row) {
        const double* from = tile(tile_col, tile_row) + in_row;
        const int64_t step = side(tile_row);
        for (int64_t k = j; k < end; ++k) out[k] = from[(k - base) * step];
      } else {  // its lower half is not kept
        const double* from = tile(tile_row, tile_row);
        const int64_t step = side(tile_row);
        for (int64_t k = j; k < end; ++k)
          out[k] = from[std::min(in_row, k - base) * step + std::max(in_row, k - base)];
      }
      j = end;
    }
  }
}

}  // namespace lamina::svd

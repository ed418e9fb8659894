#include <algorithm>

#include "kernels/cuda/decode_formats.cuh"

namespace lamina {
namespace {

// One 16-byte piece of a chunk a thread.
template <class F>
__global__ void pack_kernel(DecodeLayout layout, const int8_t* codes, const float* scales, uint8_t* to) {
  constexpr int kPieces = kCodeBytes / 16;
  const int64_t pieces = layout.strips * layout.chunks * kPieces;
  const auto code_at = [&](int64_t row, int64_t col) -> uint32_t {
    const bool inside = row < layout.rows && col < layout.cols;
    const int code = inside ? codes[row * layout.cols + col] : 0;
    return F::kStepWords == 1 ? static_cast<uint32_t>(code + 8) & 15u : static_cast<uint32_t>(code) & 255u;
  };
  for (int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; index < pieces;
       index += int64_t{gridDim.x} * blockDim.x) {
    const int64_t chunk = index / kPieces % layout.chunks, strip = index / kPieces / layout.chunks;
    const int piece = static_cast<int>(index % kPieces), lane = piece % 32, part = piece / 32 % 2,
              r = piece / 64;
    const int g = lane / 4, t = lane % 4;
    uint32_t words[4] = {};
    for (int word = 0; word < 4; ++word) {
      const int s = F::kStepWords == 1 ? word : part * 2 + word / 2;  // of the half
      const int64_t col =
          chunk * F::kChunkCols + (F::kStepWords == 1 ? part * 64 : 0) + s / 2 * 32 + t * 8 + s % 2 * 4;
      const int registers = 4 / F::kStepWords;  // whose weights the word has
      for (int i = 0; i < registers; ++i) {
        const int reg = F::kStepWords == 1 ? i : word % 2 * 2 + i;
        const int64_t row = strip * kStripRows + r * 16 + g + reg % 2 * 8;
        for (int e = 0; e < 2; ++e) {
          const int place = F::kStepWords == 1 ? 4 * (i + 4 * e) : 8 * (i + 2 * e);
          words[word] |= code_at(row, col + reg / 2 * 2 + e) << place;
        }
      }
    }
    uint8_t* const base = to + (strip * layout.chunks + chunk) * layout.chunk_bytes;
    *reinterpret_cast<uint4*>(base + piece * 16) = {words[0], words[1], words[2], words[3]};
    if constexpr (F::kGrouped) {
      // Of each group, row g of 8: its tiles' rows g and g + 8.
      constexpr int kScales = kGroups<F> * kStripRows;
      if (piece < kScales) {
        const int group = piece / kStripRows, row_in = piece / (2 * kTiles) % 8, tile = piece / 2 % kTiles,
                  upper = piece % 2;
        const int64_t row = strip * kStripRows + tile * 16 + row_in + upper * 8;
        const int64_t all = layout.cols / F::kGroup, at = chunk * kGroups<F> + group;
        reinterpret_cast<float*>(base + kCodeBytes)[piece] =
            row < layout.rows && at < all ? scales[row * all + at] : 0.0f;
      }
    }
  }
}

}  // namespace

DecodeLayout decode_layout(DecodeFormat format, int64_t rows, int64_t cols) {
  DecodeLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.strips = (rows + kBlockRows - 1) / kBlockRows * kRowWarps;
  with_format(format, [&]<class F>(F) {
    layout.chunk_cols = F::kChunkCols;
    layout.chunk_bytes = kChunkBytes<F>;
  });
  layout.chunks = (cols + layout.chunk_cols - 1) / layout.chunk_cols;
  return layout;
}

void decode_pack(DecodeFormat format, const DecodeLayout& layout, const int8_t* codes, const float* scales,
                 void* to, cudaStream_t stream) {
  const int64_t pieces = layout.strips * layout.chunks * (kCodeBytes / 16);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((pieces + 255) / 256, 1 << 20));
  with_format(format, [&]<class F>(F) {
    pack_kernel<F><<<blocks, 256, 0, stream>>>(layout, codes, scales, static_cast<uint8_t*>(to));
  });
}

}  // namespace lamina

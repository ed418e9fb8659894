#include <algorithm>

#include "kernels/cuda/decode_formats.cuh"

namespace lamina {
namespace {

// The two columns of four that are kept, lower first, and their codes; of fewer, any two with zeros.
template <class Word>
struct Kept {
  uint32_t at[2] = {0, 1};
  Word code[2] = {};
};

template <class Word>
__device__ Kept<Word> kept_of(const Word* four, unsigned* too_many) {
  Kept<Word> kept;
  int count = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    if (four[i] == 0) continue;
    if (count == 2) {
      *too_many = 1;
      break;
    }
    kept.at[count] = i;
    kept.code[count++] = four[i];
  }
  if (count == 1 && kept.at[0] == 3) {  // the other one comes before
    kept.at[0] = 0;
    kept.at[1] = 3;
    kept.code[1] = kept.code[0];
    kept.code[0] = 0;
  } else if (count == 1) {
    kept.at[1] = 3;
  }
  return kept;
}

// One 16-byte piece of a chunk a thread, with its share of scales and, of 2:4, of what says which are kept.
template <class F>
__global__ void pack_kernel(DecodeLayout layout, const typename F::Word* codes, const float* scales,
                            const int8_t* zero_points, uint8_t* to, unsigned* too_many) {
  using Word = typename F::Word;
  constexpr int kPieces = kCodeBytes / 16, kRegisters = 4 / F::kStepWords;  // whose weights a word has
  const int64_t pieces = layout.strips * layout.chunks * kPieces;
  constexpr int kGroupCols = F::kGroup * (F::kSparse ? 2 : 1);
  const int64_t groups = layout.cols / kGroupCols;
  const auto code_at = [&](int64_t row, int64_t col) -> Word {
    if (row >= layout.rows || col >= layout.cols) return 0;
    // prefill.cu scales no group by 0: what such a one holds is 0 by its codes.
    if constexpr (F::kGrouped)
      if (scales[row * groups + col / kGroupCols] == 0) return 0;
    return codes[row * layout.cols + col];
  };
  const auto kept_at = [&](int64_t row, int64_t col) {
    const Word four[4] = {code_at(row, col), code_at(row, col + 1), code_at(row, col + 2),
                          code_at(row, col + 3)};
    return kept_of(four, too_many);
  };
  for (int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; index < pieces;
       index += int64_t{gridDim.x} * blockDim.x) {
    const int64_t chunk = index / kPieces % layout.chunks, strip = index / kPieces / layout.chunks;
    const int piece = static_cast<int>(index % kPieces), lane = piece % 32, part = piece / 32 % 2,
              r = piece / 64;
    const int g = lane / 4, t = lane % 4;
    uint32_t words[4] = {};
    for (int word = 0; word < 4; ++word) {
      const int step = (part * 4 + word) / F::kStepWords;  // of the chunk
      for (int i = 0; i < kRegisters; ++i) {
        const int reg = word % F::kStepWords * kRegisters + i;
        const int64_t row = strip * kStripRows + r * 16 + g + reg % 2 * 8;
        if constexpr (F::kSparse) {
          const auto kept = kept_at(row, chunk * F::kChunkCols + step * 32 + (t + reg / 2 * 4) * 4);
          for (int e = 0; e < 2; ++e) words[word] |= at_place(F::stored(kept.code[e]), F::place(i, e));
        } else {
          const int64_t col = chunk * F::kChunkCols + step / 2 * 32 + t * 8 + step % 2 * 4 + reg / 2 * 2;
          for (int e = 0; e < 2; ++e)
            words[word] |= at_place(F::stored(code_at(row, col + e)), F::place(i, e));
        }
      }
    }
    uint8_t* const base = to + (strip * layout.chunks + chunk) * layout.chunk_bytes;
    *reinterpret_cast<uint4*>(base + piece * 16) = {words[0], words[1], words[2], words[3]};
    if constexpr (F::kGrouped) {
      // Of each group, row g of 8: its tiles' rows g and g + 8.
      for (int at = piece; at < kGroups<F> * kStripRows; at += kPieces) {
        const int group = at / kStripRows, row_in = at / (2 * kTiles) % 8, tile = at / 2 % kTiles,
                  upper = at % 2;
        const int64_t row = strip * kStripRows + tile * 16 + row_in + upper * 8;
        const int64_t own = chunk * kGroups<F> + group;
        const float scale = row < layout.rows && own < groups ? scales[row * groups + own] : 0.0f;
        reinterpret_cast<float*>(base + kCodeBytes)[at] = scale;
        if constexpr (F::kZeros)
          base[kZerosAt<F> + at] = stored_zero(scale != 0 ? zero_points[row * groups + own] : 0);
      }
    }
    if constexpr (F::kSparse) {
      // Lanes 4g and 4g + 1 have the first tile's rows g and g + 8, of 16 columns each; the next two the
      // other's.
      for (int at = piece; at < F::kSteps * 32; at += kPieces) {
        const int step = at / 32, row_in = at % 32 / 4, tile = at % 4 / 2, half = at % 2;
        uint32_t meta = 0;
        for (int upper = 0; upper < 2; ++upper)
          for (int four = 0; four < 4; ++four) {
            const auto kept = kept_at(strip * kStripRows + tile * 16 + row_in + upper * 8,
                                      chunk * F::kChunkCols + step * 32 + half * 16 + four * 4);
            meta |= (kept.at[0] | kept.at[1] << 2) << (upper * 16 + four * 4);
          }
        reinterpret_cast<uint32_t*>(base + kMetaAt<F>)[at] = meta;
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
  layout.x_cols = layout.chunks * layout.chunk_cols;
  return layout;
}

void decode_pack(DecodeFormat format, const DecodeLayout& layout, const void* codes, const float* scales,
                 const int8_t* zero_points, void* to, unsigned* too_many, cudaStream_t stream) {
  const int64_t pieces = layout.strips * layout.chunks * (kCodeBytes / 16);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((pieces + 255) / 256, 1 << 20));
  with_format(format, [&]<class F>(F) {
    pack_kernel<F><<<blocks, 256, 0, stream>>>(layout, static_cast<const typename F::Word*>(codes), scales,
                                               zero_points, static_cast<uint8_t*>(to), too_many);
  });
}

}  // namespace lamina

// How decode.cu's blocks of threads share a layer's rows and columns.
#pragma once

#include <cstdint>

#include "kernels/cuda/decode_formats.cuh"

namespace lamina {
namespace {

constexpr int kMostBlocks = 2;  // of a multiprocessor
constexpr int kRedPad = 4;      // floats, against bank conflicts

// How a layer is cut. Where strips are few, blocks of threads take all of K of one or two, so that none share
// sums, which costs more than their activations: each such block reads all of them. By strips a
// multiprocessor.
enum class Cut { one, two, many };

// By tiles of 8 tokens: warps side by side and along K, chunks that each has on the way, and blocks of
// threads that a multiprocessor holds. Few chunks are enough, and small blocks let the next kernel's begin
// where this one's have ended. Sums of 64 tokens want the registers of two.
template <class F, int kTokenTiles, Cut kCut>
struct Block {
  static constexpr bool kSmall = kCut == Cut::many || (kCut == Cut::two && kTokenTiles == 2);
  static constexpr int kRowWarps = kCut == Cut::many ? 4 : kCut == Cut::two && !kSmall ? 2 : 1;
  static constexpr int kWarps = kSmall ? 8 : 16, kColWarps = kWarps / kRowWarps;
  static constexpr int kRows = kStripRows * kRowWarps;
  static constexpr int kPerMultiprocessor = kSmall && kTokenTiles <= 4 ? kMostBlocks : 1;
  // Two of the longest: three would not fit the shared memory of GPUs that have 100 KB.
  static constexpr int kStages =
      F::kBitmap || kChunkBytes<F> >= 4096 || (kCut == Cut::two && kTokenTiles == 1) ? 2 : 3;
  // Of warps along K the sums that shared memory holds at a time: all, or where they are long half of them.
  static constexpr int kReds = kTokenTiles <= 2 && !F::kBitmap ? kColWarps : kColWarps / 2;
};
// Of a bitmap and 9 to 16 tokens, whose chunks and sums would leave a first-level cache too small for the
// activations, layers are cut as if they had many strips.
template <class F, int kTokenTiles>
constexpr bool kCutsByStrips = kTokenTiles <= 4 && !(F::kBitmap && kTokenTiles == 2);
// Longer strips, where they are few, are shared by blocks of threads all the same: so few blocks would not
// fill the memory's bandwidth.
constexpr int64_t kLongStripBytes = 512 << 10;

}  // namespace
}  // namespace lamina

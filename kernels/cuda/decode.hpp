// Weight-only products for few tokens: codes are widened to bfloat16 in registers and meet activations in the
// tensor cores, tokens as the narrow side. docs/gpu-kernels.md has the layout and what limits it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

// How codes are stored, and how they become bfloat16.
enum class DecodeFormat {
  int8,
  fp8,
  int4_g32,
  int4_g64,
  int4_g128,
  // With a zero point a group, in -8..7.
  int4_g32_zero,
  int4_g64_zero,
  int4_g128_zero,
  // 2 of every 4 columns; groups are of columns of the whole.
  bf16_24,
  int8_24,
  int4_g32_24,
  int4_g64_24,
  int4_g128_24,
  // bfloat16 of any pattern, and of blocks of 16 columns by 16 rows.
  bitmap,
  blocks
};

// A strip is 32 rows; a chunk of it, 2 KB of codes and, of groups, their scales, is what a warp takes at a
// time.
struct DecodeLayout {
  int64_t rows = 0, cols = 0;
  int64_t strips = 0;                       // padded to what a block of threads takes
  int64_t chunks = 0;                       // of a strip; the last is padded
  int64_t chunk_cols = 0, chunk_bytes = 0;  // of a bitmap the longest chunk's
  int64_t x_cols = 0;                       // of x, zeros past `cols`
  int64_t bytes() const { return strips * chunks * chunk_bytes; }
};
DecodeLayout decode_layout(DecodeFormat format, int64_t rows, int64_t cols);

// Of all formats but bitmap and blocks: packs canonical codes (of bf16_24 bfloat16) [rows × cols] and, of
// groups, scales [rows × cols/group], of formats with zero points these too, into layout.bytes() at `to`. All
// in device memory. Of 2:4 `too_many`, zero before, tells where more are kept.
void decode_pack(DecodeFormat format, const DecodeLayout& layout, const void* codes, const float* scales,
                 const int8_t* zero_points, void* to, unsigned* too_many, cudaStream_t stream);

// The weights back as one matrix, [rows × cols] bfloat16 at `to`, which is aligned to 16 bytes: codes as they
// are, of groups times their scales and rounded. What was pruned is 0.
void decode_expand(DecodeFormat format, const DecodeLayout& layout, const void* packed, void* to,
                   cudaStream_t stream);

// At most this many tokens a call: 64, or what this GPU's shared memory has room for; 0 where not even 8 fit.
int64_t decode_most_tokens(DecodeFormat format, const DecodeLayout& layout);

struct DecodeArguments {
  const void* weights = nullptr;      // packed
  const float* row_scales = nullptr;  // [rows], of formats without groups
  // [tokens × x_cols] bfloat16, aligned to 16 bytes; finite where weights are padding
  const void* x = nullptr;
  const uint32_t* offsets = nullptr;  // of a bitmap: where each chunk begins, and the last ends, in 64 bytes
  const uint2* columns = nullptr;     // of blocks: of each chunk the units of 16 columns, two a tile of rows
  const float* token_scales = nullptr;  // null, or [tokens]: y is multiplied by them
  float* y = nullptr;                   // [tokens × rows]
  void* rounded = nullptr;              // null, or y once more by the bf16 rule, [tokens × rows]
  float* partials = nullptr;            // decode_partial_bytes(tokens)
  unsigned* counters = nullptr;         // decode_counters(layout) zeros, which every call leaves zero
  int64_t tokens = 0;
};
int64_t decode_partial_bytes(int64_t tokens);
int64_t decode_counters(const DecodeLayout& layout);
void decode(DecodeFormat format, const DecodeLayout& layout, const DecodeArguments& arguments,
            cudaStream_t stream);

}  // namespace lamina

// Bitmaps and blocks of bfloat16 as decode() reads them, and back to whole matrices.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode.hpp"

namespace lamina {

// All but `chunks` of blocks and `chunk_bytes` of a bitmap, which the weights decide.
DecodeLayout pruned_layout(DecodeFormat format, int64_t rows, int64_t cols);

// Units of 64 bytes that each chunk of a bitmap of these weights takes; [strips × chunks]. Zeros are dropped.
void bitmap_units(const DecodeLayout& layout, const void* weights, uint32_t* units, cudaStream_t stream);
// Packs them; `offsets` are the sums of the units before, one more than there are chunks.
void bitmap_pack(const DecodeLayout& layout, const void* weights, const uint32_t* offsets, void* to,
                 cudaStream_t stream);
// `kept` blocks of each tile of 16 rows come first among `columns`; what follows is 0.
void blocks_pack(const DecodeLayout& layout, const void* weights, const uint2* columns, const uint16_t* kept,
                 void* to, cudaStream_t stream);

// The weights as they were, [rows × cols] bfloat16, every number of them.
void bitmap_expand(const DecodeLayout& layout, const void* packed, const uint32_t* offsets, void* to,
                   cudaStream_t stream);
void blocks_expand(const DecodeLayout& layout, const void* packed, const uint2* columns, void* to,
                   cudaStream_t stream);

}  // namespace lamina

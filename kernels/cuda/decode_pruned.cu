#include "kernels/cuda/decode_pruned.hpp"

#include "kernels/cuda/decode_formats.cuh"

namespace lamina {
namespace {

constexpr int kThreads = 128;  // each warp has a chunk
constexpr int kWarps = kThreads / 32;

// A lane's weights of a chunk in the order of its bits: parts of 64 columns, tiles of 16 rows, steps of 16
// columns, registers, and two weights of each. As int4 codes are placed (decode_pack.cu).
struct Place {
  int row, col;  // of the chunk
};
__device__ __forceinline__ Place place_of(int lane, int index) {
  const int part = index / 64, tile = index / 32 % 2, step = index / 8 % 4, reg = index / 2 % 4,
            e = index % 2;
  return {tile * 16 + lane / 4 + reg % 2 * 8,
          part * 64 + step / 2 * 32 + lane % 4 * 8 + step % 2 * 4 + reg / 2 * 2 + e};
}
constexpr int kLaneWeights = kStripRows * Bitmap::kChunkCols / 32;

struct Chunk {
  int64_t index, row, col;
};
__device__ __forceinline__ Chunk chunk_of(const DecodeLayout& layout) {
  const int64_t index = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  return {index, index / layout.chunks * kStripRows, index % layout.chunks * layout.chunk_cols};
}

__device__ __forceinline__ uint16_t weight_at(const DecodeLayout& layout, const uint16_t* weights,
                                              int64_t row, int64_t col) {
  return row < layout.rows && col < layout.cols ? weights[row * layout.cols + col] : uint16_t{0};
}

__global__ void __launch_bounds__(kThreads)
    bitmap_units_kernel(DecodeLayout layout, const uint16_t* weights, uint32_t* units) {
  const Chunk chunk = chunk_of(layout);
  if (chunk.index >= layout.strips * layout.chunks) return;
  const int lane = threadIdx.x % 32;
  unsigned kept = 0;
  for (int i = 0; i < kLaneWeights; ++i) {
    const Place place = place_of(lane, i);
    kept += weight_at(layout, weights, chunk.row + place.row, chunk.col + place.col) != 0 ? 1 : 0;
  }
  const unsigned most = __reduce_max_sync(~0u, kept);
  if (lane == 0) units[chunk.index] = (Bitmap::kBitBytes + most * Bitmap::kValueBytes) / 64;
}

__global__ void __launch_bounds__(kThreads)
    bitmap_pack_kernel(DecodeLayout layout, const uint16_t* weights, const uint32_t* offsets, uint8_t* to) {
  const Chunk chunk = chunk_of(layout);
  if (chunk.index >= layout.strips * layout.chunks) return;
  const int lane = threadIdx.x % 32;
  uint8_t* const base = to + int64_t{offsets[chunk.index]} * 64;
  const auto most =
      static_cast<int>(offsets[chunk.index + 1] - offsets[chunk.index]) - Bitmap::kBitBytes / 64;
  auto* const values = reinterpret_cast<uint16_t*>(base + Bitmap::kBitBytes) + lane;
  uint32_t bits = 0;
  int kept = 0;
  for (int i = 0; i < kLaneWeights; ++i) {
    const Place place = place_of(lane, i);
    const uint16_t weight = weight_at(layout, weights, chunk.row + place.row, chunk.col + place.col);
    if (weight != 0) {
      bits |= 1u << (i % 32);
      values[kept++ * 32] = weight;
    }
    if (i % 32 == 31) {
      reinterpret_cast<uint32_t*>(base)[lane * 4 + i / 32] = bits;
      bits = 0;
    }
  }
  while (kept < most) values[kept++ * 32] = 0;
}

// A warp unpacks a chunk into shared memory and writes whole rows of it.
__global__ void __launch_bounds__(kThreads)
    bitmap_expand_kernel(DecodeLayout layout, const uint8_t* packed, const uint32_t* offsets, uint16_t* to) {
  __shared__ __align__(16) uint16_t tiles[kWarps][kStripRows][Bitmap::kChunkCols + 8];
  const Chunk chunk = chunk_of(layout);
  const int lane = threadIdx.x % 32;
  if (chunk.index >= layout.strips * layout.chunks) return;
  auto& tile = tiles[threadIdx.x / 32];
  const uint8_t* const base = packed + int64_t{offsets[chunk.index]} * 64;
  const uint4 bitmap = *reinterpret_cast<const uint4*>(base + lane * 16);
  const uint32_t words[4] = {bitmap.x, bitmap.y, bitmap.z, bitmap.w};
  const auto* value = reinterpret_cast<const uint16_t*>(base + Bitmap::kBitBytes) + lane;
#pragma unroll
  for (int word = 0; word < 4; ++word)
#pragma unroll 8
    for (int bit = 0; bit < 32; bit += 2) {
      uint32_t two = 0;
      if (words[word] >> bit & 1) two = *value, value += 32;
      if (words[word] >> bit & 2) two |= uint32_t{*value} << 16, value += 32;
      const Place place = place_of(lane, word * 32 + bit);
      *reinterpret_cast<uint32_t*>(&tile[place.row][place.col]) = two;
    }
  __syncwarp();
  const int64_t cols =
      layout.cols - chunk.col < Bitmap::kChunkCols ? layout.cols - chunk.col : Bitmap::kChunkCols;
  for (int row = 0; row < kStripRows && chunk.row + row < layout.rows; ++row) {
    uint16_t* const out = to + (chunk.row + row) * layout.cols + chunk.col;
    if (layout.cols % 4 == 0) {
      if (lane * 4 < cols)
        *reinterpret_cast<uint2*>(out + lane * 4) = *reinterpret_cast<const uint2*>(&tile[row][lane * 4]);
    } else {
      for (int64_t col = lane; col < cols; col += 32) out[col] = tile[row][col];
    }
  }
}

__device__ __forceinline__ uint32_t named_column(const uint2& columns, int tile, int step) {
  const uint32_t both = tile == 0 ? columns.x : columns.y;
  return step == 0 ? both & 0xffffu : both >> 16;
}

// Visits a lane's 16 registers of a chunk of blocks: visit(word, tile, step, row, col), two columns from col
// on.
template <class Visit>
__device__ __forceinline__ void each_register(int lane, const uint2& columns, Visit visit) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int step = 0; step < Blocks::kSteps; ++step)
#pragma unroll
      for (int reg = 0; reg < 4; ++reg)
        visit(((tile * 2 + step) * 32 + lane) * 4 + reg, tile, step, tile * 16 + lane / 4 + reg % 2 * 8,
              static_cast<int64_t>(named_column(columns, tile, step)) * 16 + lane % 4 * 4 + reg / 2 * 2);
}

__global__ void __launch_bounds__(kThreads)
    blocks_pack_kernel(DecodeLayout layout, const uint16_t* weights, const uint2* columns,
                       const uint16_t* kept, uint32_t* to) {
  const Chunk chunk = chunk_of(layout);
  if (chunk.index >= layout.strips * layout.chunks) return;
  const int64_t first = chunk.index % layout.chunks * Blocks::kSteps;
  to += chunk.index * (kCodeBytes / 4);
  each_register(threadIdx.x % 32, columns[chunk.index],
                [&](int word, int tile, int step, int row, int64_t col) {
                  const bool there = first + step < kept[chunk.index / layout.chunks * kTiles + tile];
                  const auto at = [&](int64_t c) -> uint32_t {
                    return there ? weight_at(layout, weights, chunk.row + row, c) : 0u;
                  };
                  to[word] = at(col) | at(col + 1) << 16;
                });
}

// `to` holds zeros. What fills up a row's blocks is 0 and must not be written over another.
__global__ void __launch_bounds__(kThreads)
    blocks_expand_kernel(DecodeLayout layout, const uint4* packed, const uint2* columns, uint16_t* to) {
  const Chunk chunk = chunk_of(layout);
  if (chunk.index >= layout.strips * layout.chunks) return;
  packed += chunk.index * (kCodeBytes / 16);
  const int lane = threadIdx.x % 32;
  const uint2 named = columns[chunk.index];
  uint4 registers[kTiles * Blocks::kSteps];
#pragma unroll
  for (int i = 0; i < kTiles * Blocks::kSteps; ++i) registers[i] = packed[i * 32 + lane];
#pragma unroll
  for (int i = 0; i < kTiles * Blocks::kSteps; ++i) {
    const int64_t col = static_cast<int64_t>(named_column(named, i / 2, i % 2)) * 16 + lane % 4 * 4;
    const uint2 halves[2] = {{registers[i].x, registers[i].z}, {registers[i].y, registers[i].w}};
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // rows g and g + 8, four columns each
      const int64_t row = chunk.row + i / 2 * 16 + lane / 4 + half * 8;
      if ((halves[half].x | halves[half].y) != 0 && row < layout.rows)
        *reinterpret_cast<uint2*>(to + row * layout.cols + col) = halves[half];
    }
  }
}

unsigned blocks_for(const DecodeLayout& layout) {
  return static_cast<unsigned>((layout.strips * layout.chunks + kWarps - 1) / kWarps);
}

}  // namespace

DecodeLayout pruned_layout(DecodeFormat format, int64_t rows, int64_t cols) {
  DecodeLayout layout;
  layout.rows = rows;
  layout.cols = cols;
  layout.strips = (rows + kBlockRows - 1) / kBlockRows * kRowWarps;
  if (format == DecodeFormat::bitmap) {
    layout.chunk_cols = Bitmap::kChunkCols;
    layout.chunks = (cols + layout.chunk_cols - 1) / layout.chunk_cols;
    layout.x_cols = layout.chunks * layout.chunk_cols;
  } else {
    layout.chunk_cols = Blocks::kChunkCols;
    layout.chunk_bytes = kChunkBytes<Blocks>;
    layout.x_cols = cols;
  }
  return layout;
}

void bitmap_units(const DecodeLayout& layout, const void* weights, uint32_t* units, cudaStream_t stream) {
  bitmap_units_kernel<<<blocks_for(layout), kThreads, 0, stream>>>(
      layout, static_cast<const uint16_t*>(weights), units);
}

void bitmap_pack(const DecodeLayout& layout, const void* weights, const uint32_t* offsets, void* to,
                 cudaStream_t stream) {
  bitmap_pack_kernel<<<blocks_for(layout), kThreads, 0, stream>>>(
      layout, static_cast<const uint16_t*>(weights), offsets, static_cast<uint8_t*>(to));
}

void blocks_pack(const DecodeLayout& layout, const void* weights, const uint2* columns, const uint16_t* kept,
                 void* to, cudaStream_t stream) {
  blocks_pack_kernel<<<blocks_for(layout), kThreads, 0, stream>>>(
      layout, static_cast<const uint16_t*>(weights), columns, kept, static_cast<uint32_t*>(to));
}

void bitmap_expand(const DecodeLayout& layout, const void* packed, const uint32_t* offsets, void* to,
                   cudaStream_t stream) {
  bitmap_expand_kernel<<<blocks_for(layout), kThreads, 0, stream>>>(
      layout, static_cast<const uint8_t*>(packed), offsets, static_cast<uint16_t*>(to));
}

void blocks_expand(const DecodeLayout& layout, const void* packed, const uint2* columns, void* to,
                   cudaStream_t stream) {
  cudaMemsetAsync(to, 0, static_cast<size_t>(layout.rows * layout.cols) * 2,
                  stream);  // check_launch() follows
  blocks_expand_kernel<<<blocks_for(layout), kThreads, 0, stream>>>(layout, static_cast<const uint4*>(packed),
                                                                    columns, static_cast<uint16_t*>(to));
}

}  // namespace lamina

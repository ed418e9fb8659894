#include "kernels/cuda/decode_pruned.hpp"

#include "kernels/cuda/decode_formats.cuh"
#include "kernels/cuda/ptx.cuh"

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

// A warp fetches a chunk into shared memory, where every lane takes its values from a column of its own.
__global__ void __launch_bounds__(kThreads)
    bitmap_expand_kernel(DecodeLayout layout, const uint8_t* packed, const uint32_t* offsets, uint16_t* to) {
  __shared__ __align__(16) uint8_t chunks[kWarps][Bitmap::kBitBytes + kLaneWeights * Bitmap::kValueBytes];
  const Chunk chunk = chunk_of(layout);
  if (chunk.index >= layout.strips * layout.chunks) return;
  const int lane = threadIdx.x % 32;
  uint8_t* const own = chunks[threadIdx.x / 32];
  const uint32_t from = offsets[chunk.index], bytes = (offsets[chunk.index + 1] - from) * 64;
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(own));
  for (uint32_t at = lane * 16; at < bytes; at += 512)
    copy_async(shared + at, packed + int64_t{from} * 64 + at);
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
  const uint4 bitmap = *reinterpret_cast<const uint4*>(own + lane * 16);
  const uint32_t words[4] = {bitmap.x, bitmap.y, bitmap.z, bitmap.w};
  const auto* value = reinterpret_cast<const uint16_t*>(own + Bitmap::kBitBytes) + lane;
#pragma unroll
  for (int word = 0; word < 4; ++word)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t pairs[8];  // two steps of four registers: those of a row are every other one
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int bit = half * 16 + i * 2;
        pairs[i] = 0;
        if (words[word] >> bit & 1) pairs[i] = *value, value += 32;
        if (words[word] >> bit & 2) pairs[i] |= uint32_t{*value} << 16, value += 32;
      }
      const Place place = place_of(lane, word * 32 + half * 16);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t eight[4] = {pairs[i], pairs[2 + i], pairs[4 + i], pairs[6 + i]};
        write_neighbours<8>(layout, to, chunk.row + place.row + i * 8, chunk.col + place.col, eight);
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

constexpr int kRangeBlocks = 64;  // of 16 columns, that a block of threads expands of a strip
constexpr int kRangeItems = 4;    // of them and a tile of rows, that a warp has on the way

// Every block of a range, those that were not kept as zeros. A tile's kept blocks are in order, so that a
// name of 0 that is not its first one's fills up.
__global__ void __launch_bounds__(kThreads)
    blocks_expand_kernel(DecodeLayout layout, const uint4* packed, const uint2* columns, uint16_t* to) {
  constexpr int kNone = -1;
  __shared__ int slots[kTiles][kRangeBlocks];
  const int64_t strip = blockIdx.x, row = strip * kStripRows, first = int64_t{blockIdx.y} * kRangeBlocks;
  for (int i = threadIdx.x; i < kTiles * kRangeBlocks; i += kThreads)
    slots[i / kRangeBlocks][i % kRangeBlocks] = kNone;
  __syncthreads();
  columns += strip * layout.chunks;
  packed += strip * layout.chunks * (kCodeBytes / 16);
  for (int chunk = threadIdx.x; chunk < layout.chunks; chunk += kThreads) {
    const uint2 named = columns[chunk];
#pragma unroll
    for (int i = 0; i < kTiles * Blocks::kSteps; ++i) {
      const uint32_t column = named_column(named, i / 2, i % 2);
      const int64_t at = int64_t{column} - first;
      if (at < 0 || at >= kRangeBlocks || (column == 0 && (chunk > 0 || i % 2 > 0))) continue;
      slots[i / 2][at] = chunk * (kTiles * Blocks::kSteps) + i;
    }
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int item = threadIdx.x / 32 * kRangeItems; item < kTiles * kRangeBlocks;
       item += kWarps * kRangeItems) {
    const int tile = item / kRangeBlocks, block = item % kRangeBlocks;
    uint4 registers[kRangeItems];
#pragma unroll
    for (int i = 0; i < kRangeItems; ++i) {
      const int slot = slots[tile][block + i];
      registers[i] = slot == kNone ? uint4{0, 0, 0, 0} : packed[slot * 32 + lane];
    }
#pragma unroll
    for (int i = 0; i < kRangeItems; ++i) {
      const int64_t col = (first + block + i) * 16 + lane % 4 * 4;
      const uint2 halves[2] = {{registers[i].x, registers[i].z}, {registers[i].y, registers[i].w}};
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // rows g and g + 8, four columns each
        const int64_t own_row = row + tile * 16 + lane / 4 + half * 8;
        if (col < layout.cols && own_row < layout.rows)
          *reinterpret_cast<uint2*>(to + own_row * layout.cols + col) = halves[half];
      }
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
  constexpr int64_t kRangeCols = kRangeBlocks * 16;
  const dim3 grid(static_cast<unsigned>(layout.strips),
                  static_cast<unsigned>((layout.cols + kRangeCols - 1) / kRangeCols));
  blocks_expand_kernel<<<grid, kThreads, 0, stream>>>(layout, static_cast<const uint4*>(packed), columns,
                                                      static_cast<uint16_t*>(to));
}

}  // namespace lamina

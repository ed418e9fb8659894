#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/decode.hpp"
#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/decode_multiply.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rounding.cuh"

namespace lamina {
namespace {

struct Work {
  const uint8_t* weights;
  const float *row_scales, *token_scales;
  const uint8_t* x;
  float* y;
  uint16_t* rounded;
  float* partials;
  unsigned* counters;
  int rows, tokens, chunks;
  int64_t x_stride;  // bytes
  const uint32_t* offsets;
  const uint2* columns;
  int slot_bytes;  // of a chunk in the ring
  // Chunks of all rows of blocks, of which blocks of threads take equal runs. Times their number it fits 32
  // bits, whose divisions are many times faster.
  uint32_t units;
};

// The first unit of a block of threads, and the block that a unit falls to.
__device__ __forceinline__ uint32_t first_unit(const Work& work, uint32_t block) {
  return work.units * block / gridDim.x;
}
__device__ __forceinline__ uint32_t owner(const Work& work, uint32_t unit) {
  return ((unit + 1) * gridDim.x - 1) / work.units;
}

// Known when compiled where chunks are of one size.
template <class F>
__device__ __forceinline__ int slot_of(const Work& work) {
  if constexpr (F::kBitmap)
    return work.slot_bytes;
  else
    return kChunkBytes<F>;
}

// A block's run of units, row of blocks by row of blocks. Warps of one strip take its chunks in turn.
struct Cursor {
  int row_block, chunk, stop;  // stop: of the chunks in this row of blocks
};

template <class F, int kTokenTiles, Cut kCut>
__global__ void __launch_bounds__(Block<F, kTokenTiles, kCut>::kWarps * 32,
                                  Block<F, kTokenTiles, kCut>::kPerMultiprocessor)
    decode_kernel(const Work work) {
  using B = Block<F, kTokenTiles, kCut>;
  const int slot_bytes = slot_of<F>(work);
  constexpr int kRows = B::kRows, kRedStride = kRows + kRedPad;
  extern __shared__ __align__(128) uint8_t shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row_warp = warp % B::kRowWarps, col_warp = warp / B::kRowWarps;
  uint8_t* const ring = shared + warp * B::kStages * slot_bytes;
  const auto ring_address = static_cast<uint32_t>(__cvta_generic_to_shared(ring));
  auto* const red = reinterpret_cast<float*>(shared + B::kWarps * B::kStages * slot_bytes);
  __shared__ bool last_shared;

  const uint32_t begin = first_unit(work, blockIdx.x), end = first_unit(work, blockIdx.x + 1);
  const int first_row = static_cast<int>(begin / work.chunks);
  const int last_row = static_cast<int>((end - 1) / work.chunks);
  const int first_chunk = static_cast<int>(begin) - first_row * work.chunks;
  const int last_stop = static_cast<int>(end) - last_row * work.chunks;
  const auto stop_of = [&](int row_block) { return row_block == last_row ? last_stop : work.chunks; };

  Cursor ahead{first_row, first_chunk + col_warp, stop_of(first_row)};
  const auto index_of = [&](int row_block, int chunk) {
    return int64_t{row_block * B::kRowWarps + row_warp} * work.chunks + chunk;
  };
  const auto address = [&] {
    if constexpr (F::kBitmap)
      return work.weights + lane * 16;
    else
      return work.weights + index_of(ahead.row_block, ahead.chunk) * slot_bytes + lane * 16;
  };
  // Of a bitmap: where the chunk that is fetched next begins and ends, asked for one fetch before.
  uint2 span = {0, 0};
  const auto ask_span = [&] {
    if constexpr (F::kBitmap) {
      const uint32_t* const from = work.offsets + index_of(ahead.row_block, ahead.chunk);
      if (ahead.chunk < ahead.stop) span = {__ldg(from), __ldg(from + 1)};
    }
  };
  const uint8_t* next = address();
  uint32_t slot_in = ring_address + lane * 16;
  const auto fetch = [&] {
    if (ahead.chunk >= ahead.stop && ahead.row_block < last_row) {
      do {
        ++ahead.row_block;
        ahead.chunk = col_warp;
        ahead.stop = stop_of(ahead.row_block);
      } while (ahead.chunk >= ahead.stop && ahead.row_block < last_row);
      next = address();
      ask_span();
    }
    if (ahead.chunk < ahead.stop) {
      if constexpr (F::kBitmap) {
        const uint8_t* const from = next + int64_t{span.x} * 64;
        const auto bytes = static_cast<int>(span.y - span.x) * 64;
        for (int i = lane * 16; i < bytes; i += 512)
          copy_async(slot_in + i - lane * 16, from + i - lane * 16);
        ahead.chunk += B::kColWarps;
        ask_span();
      } else {
#pragma unroll
        for (int i = 0; i < kCodeBytes / 512; ++i) copy_async(slot_in + i * 512, next + i * 512);
        constexpr int kMorePieces = (kChunkBytes<F> - kCodeBytes) / 16;
#pragma unroll
        for (int i = 0; i < kMorePieces; i += 32)
          if (i + lane < kMorePieces) copy_async(slot_in + kCodeBytes + i * 16, next + kCodeBytes + i * 16);
        ahead.chunk += B::kColWarps;
        next += B::kColWarps * slot_bytes;
      }
    }
    asm volatile("cp.async.commit_group;");
    slot_in += slot_bytes;
    if (slot_in >= ring_address + B::kStages * slot_bytes) slot_in -= B::kStages * slot_bytes;
  };
  let_next_begin();
  ask_span();
  for (int i = 0; i + 1 < B::kStages; ++i) fetch();
  wait_for_previous();

  int slot = 0;
  for (int row_block = first_row; row_block <= last_row; ++row_block) {
    const int from = row_block == first_row ? first_chunk : 0, stop = stop_of(row_block);
    float sums[kTiles][kTokenTiles][4] = {};
    uint2 columns = {0, 0};  // of the chunk that comes next
    const auto ask_columns = [&](int chunk) {
      if constexpr (F::kIndexed)
        if (chunk < stop) columns = __ldg(work.columns + index_of(row_block, chunk));
    };
    ask_columns(from + col_warp);
    for (int chunk = from + col_warp; chunk < stop; chunk += B::kColWarps) {
      constexpr int kParts = F::kSteps / F::kPartSteps, kPartCols = F::kChunkCols / kParts;
      // Where registers hold all of a chunk's activations.
      constexpr bool kEarly = kTokenTiles * kParts * kXPieces<F> <= 8;
      uint4 x[kEarly ? kParts : 1][kTokenTiles][kXPieces<F>];
      const int64_t column = int64_t{chunk} * F::kChunkCols;
      const auto load_part = [&](uint4(&to)[kTokenTiles][kXPieces<F>], int64_t first) {
        if constexpr (F::kIndexed)
          load_named_x<kTokenTiles>(to, work.x, work.x_stride, work.tokens, columns, lane);
        else
          load_x<F, kTokenTiles>(to, work.x, work.x_stride, work.tokens, first, lane);
      };
      if constexpr (kEarly) {
#pragma unroll
        for (int p = 0; p < kParts; ++p) load_part(x[p], column + p * kPartCols);
        ask_columns(chunk + B::kColWarps);
      }
      asm volatile("cp.async.wait_group %0;" ::"n"(B::kStages - 2) : "memory");
      __syncwarp();  // a lane reads scales that others fetched, and none still reads the slot that is next
                     // filled
      fetch();
      // Of a bitmap: the lane's bits, and where its values begin.
      uint4 bits = {0, 0, 0, 0};
      uint32_t value_at = ring_address + slot * slot_bytes + Bitmap::kBitBytes + lane * 2;
      if constexpr (F::kBitmap) bits = *reinterpret_cast<const uint4*>(ring + slot * slot_bytes + lane * 16);
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        if constexpr (!kEarly) {
          load_part(x[0], column + p * kPartCols);
          ask_columns(chunk + B::kColWarps);
        }
        if constexpr (F::kBitmap)
          multiply_bitmap<kTokenTiles>(sums, bits, x[kEarly ? p : 0], p, value_at);
        else
          multiply_part<F, kTokenTiles>(sums, ring + slot * slot_bytes, x[kEarly ? p : 0], p, lane);
      }
      slot = slot + 1 == B::kStages ? 0 : slot + 1;
    }

    // The sums of the warps that share K, in a fixed order: of long ones first the upper half to the lower.
    constexpr int kReds = B::kReds, kTokens = kTokenTiles * 8;
    const auto each_sum = [&](auto visit) {
#pragma unroll
      for (int r = 0; r < kTiles; ++r)
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = row_warp * kStripRows + r * 16 + lane / 4 + (i / 2) * 8;
            const int token = n * 8 + lane % 4 * 2 + i % 2;
            visit(red[(col_warp % kReds * kTokens + token) * kRedStride + row], sums[r][n][i]);
          }
    };
    if (col_warp >= B::kColWarps - kReds) each_sum([](float& place, float sum) { place = sum; });
    __syncthreads();
    if constexpr (kReds < B::kColWarps) {
      if (col_warp < kReds) each_sum([](float& place, float sum) { place += sum; });
      __syncthreads();
    }

    const uint32_t unit = static_cast<uint32_t>(row_block * work.chunks);
    const uint32_t first_owner = owner(work, unit),
                   owners = owner(work, unit + work.chunks - 1) - first_owner + 1;
    constexpr int kPart = kTokens * kRows;  // floats of a partial sum
    const auto finish = [&](int token, int in_block, const float4& sum) {
      const float all[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row_block * kRows + in_block + i;
        if (row >= work.rows) continue;
        float value = F::kRowScales ? all[i] * work.row_scales[row] : all[i];
        if (work.token_scales != nullptr) value *= work.token_scales[token];
        work.y[int64_t{token} * work.rows + row] = value;
        if (work.rounded != nullptr) work.rounded[int64_t{token} * work.rows + row] = bf16_of(value);
      }
    };
    float* const own = work.partials + (2 * blockIdx.x + (row_block != first_row)) * kPart;
    for (int index = 4 * threadIdx.x; index < work.tokens * kRows; index += 4 * B::kWarps * 32) {
      const int token = index / kRows, row = index % kRows;
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int w = 0; w < kReds; ++w)
        add(sum, *reinterpret_cast<const float4*>(red + (w * kTokens + token) * kRedStride + row));
      if (owners == 1)
        finish(token, row, sum);
      else
        *reinterpret_cast<float4*>(own + index) = sum;
    }
    if (owners > 1) {  // the last block to come adds up what all have, in their order
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        last_shared = atomicAdd(&work.counters[row_block], 1u) == owners - 1;
        if (last_shared) work.counters[row_block] = 0;
      }
      __syncthreads();
      if (last_shared) {
        __threadfence();
        // Only the first of them can have begun before this row of blocks.
        const float* first =
            work.partials + (2 * first_owner + (first_unit(work, first_owner) < unit)) * kPart;
        const float* others = work.partials + 2 * (first_owner + 1) * kPart;
        for (int index = 4 * threadIdx.x; index < work.tokens * kRows; index += 4 * B::kWarps * 32) {
          float4 sum = __ldcg(reinterpret_cast<const float4*>(first + index));
#pragma unroll 4
          for (uint32_t b = 0; b + 1 < owners; ++b)
            add(sum, __ldcg(reinterpret_cast<const float4*>(others + 2 * b * kPart + index)));
          finish(index / kRows, index % kRows, sum);
        }
      }
    }
    __syncthreads();  // red is read
  }
}

// Of a block of threads: its rings, and the sums of warps that share K.
template <class F, int kTokenTiles, Cut kCut>
int64_t shared_bytes(const DecodeLayout& layout) {
  using B = Block<F, kTokenTiles, kCut>;
  return B::kWarps * B::kStages * layout.chunk_bytes + B::kReds * kTokenTiles * 8 * (B::kRows + kRedPad) * 4;
}

// False where the shared memory that it takes is not there.
template <class F, int kTokenTiles, Cut kCut>
bool launch(const DecodeLayout& layout, const DecodeArguments& a, cudaStream_t stream) {
  using B = Block<F, kTokenTiles, kCut>;
  const CudaProperties& gpu = cuda_properties();
  int64_t shared = shared_bytes<F, kTokenTiles, kCut>(layout);
  if (shared > gpu.shared_bytes) return false;
  // So much that one more would not fit: the next kernel's first blocks would take that place early, and
  // leave others of it to crowd on some multiprocessors.
  if (gpu.overlaps)
    shared = std::max(shared, gpu.shared_of_multiprocessor / (B::kPerMultiprocessor + 1) / 16 * 16);
  // Of a bitmap chunks are as long as a layer's are.
  static int64_t allowed = 0;
  static int resident = B::kPerMultiprocessor;
  const auto kernel = decode_kernel<F, kTokenTiles, kCut>;
  if (shared > allowed) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    allowed = shared;
    if constexpr (F::kBitmap)
      cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, B::kWarps * 32,
                                                    static_cast<size_t>(shared));
    resident = std::clamp(resident, 1, B::kPerMultiprocessor);
  }
  // a launch that is refused says so itself
  const int64_t row_blocks = (layout.rows + B::kRows - 1) / B::kRows;
  const int64_t slots = int64_t{gpu.multiprocessors} * resident;
  Work work{static_cast<const uint8_t*>(a.weights),
            a.row_scales,
            a.token_scales,
            static_cast<const uint8_t*>(a.x),
            a.y,
            static_cast<uint16_t*>(a.rounded),
            a.partials,
            a.counters,
            static_cast<int>(layout.rows),
            static_cast<int>(a.tokens),
            static_cast<int>(layout.chunks),
            2 * layout.x_cols,
            a.offsets,
            a.columns,
            static_cast<int>(layout.chunk_bytes),
            static_cast<uint32_t>(row_blocks * layout.chunks)};
  // Of many tokens arithmetic counts, and with it multiprocessors that have fewer blocks than others.
  const bool nearly_all = 4 * row_blocks >= 3 * slots;
  const bool alone =
      row_blocks <= slots &&
      (kCut == Cut::many ? kTokenTiles == 1 && nearly_all
                         : nearly_all || layout.chunks * layout.chunk_bytes <= kLongStripBytes);
  const int64_t blocks =
      alone ? row_blocks : std::min(slots, (int64_t{work.units} + B::kColWarps - 1) / B::kColWarps);
  launch_overlapped(kernel, static_cast<unsigned>(blocks), B::kWarps * 32, static_cast<size_t>(shared),
                    stream, work);
  return true;
}

template <class F, int kTokenTiles>
void launch(const DecodeLayout& layout, const DecodeArguments& a, cudaStream_t stream) {
  const int64_t strips = (layout.rows + kStripRows - 1) / kStripRows, all = cuda_properties().multiprocessors;
  if constexpr (kCutsByStrips<F, kTokenTiles>) {
    if (strips <= all && launch<F, kTokenTiles, Cut::one>(layout, a, stream)) return;
    if (strips > all && strips <= 2 * all && launch<F, kTokenTiles, Cut::two>(layout, a, stream)) return;
  }
  launch<F, kTokenTiles, Cut::many>(layout, a, stream);
}

// Of 8 tokens, that a launch for so many takes at a time.
int token_tiles(int64_t tokens) {
  return tokens <= 8 ? 1 : tokens <= 16 ? 2 : tokens <= 32 ? 4 : 8;
}

template <class Run>
auto with_tiles(int64_t tokens, Run run) {
  switch (token_tiles(tokens)) {
    case 1:
      return run.template operator()<1>();
    case 2:
      return run.template operator()<2>();
    case 4:
      return run.template operator()<4>();
    default:
      return run.template operator()<8>();
  }
}

// As with_format, of all formats.
template <class Run>
auto with_any_format(DecodeFormat format, Run run) {
  if (format == DecodeFormat::bitmap) return run(Bitmap());
  if (format == DecodeFormat::blocks) return run(Blocks());
  return with_format(format, run);
}

}  // namespace

int64_t decode_partial_bytes(int64_t tokens) {
  return 2 * int64_t{cuda_properties().multiprocessors} * kMostBlocks * token_tiles(tokens) * 8 * kBlockRows *
         4;
}

int64_t decode_counters(const DecodeLayout& layout) {
  return layout.strips;
}

int64_t decode_most_tokens(DecodeFormat format, const DecodeLayout& layout) {
  const int64_t room = cuda_properties().shared_bytes;
  return with_any_format(format, [&]<class F>(F) {
    const auto needed = [&](int64_t tokens) {
      return with_tiles(tokens,
                        [&]<int kTokenTiles>() { return shared_bytes<F, kTokenTiles, Cut::many>(layout); });
    };
    for (int64_t tokens = 64; tokens >= 8; tokens /= 2)
      if (needed(tokens) <= room) return tokens;
    return int64_t{0};
  });
}

void decode(DecodeFormat format, const DecodeLayout& layout, const DecodeArguments& arguments,
            cudaStream_t stream) {
  with_any_format(format, [&]<class F>(F) {
    with_tiles(arguments.tokens,
               [&]<int kTokenTiles>() { launch<F, kTokenTiles>(layout, arguments, stream); });
  });
}

}  // namespace lamina

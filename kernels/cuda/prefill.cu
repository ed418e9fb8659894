#include "kernels/cuda/prefill.hpp"

#include <algorithm>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_multiply.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rounding.cuh"

namespace lamina {
namespace {

struct Work {
  const uint8_t* weights;
  const float *row_scales, *token_scales;
  const uint8_t* x;
  float* y;
  float* partials;
  unsigned* counters;
  int rows, tokens, chunks, row_tiles, token_tiles;
  // Clusters take whole tiles in turn, so that those at work at a time share rows and tokens; of the last
  // tiles, fewer than there are clusters, they take equal runs of chunks.
  int whole_tiles, whole_rounds;
  int64_t units;  // chunks of the last tiles
};

__device__ __forceinline__ int64_t first_unit(const Work& work, int cluster) {
  return work.units * cluster / (gridDim.x / kCluster);
}

// A part of a tile's chunks.
struct Run {
  int tile, from, to;
};
// A cluster's runs, in order; false at their end.
struct Runs {
  int turn = 0;
  int64_t unit, end;
  __device__ Runs(const Work& work, int cluster)
      : unit(first_unit(work, cluster)), end(first_unit(work, cluster + 1)) {}
  __device__ __forceinline__ bool next(const Work& work, int cluster, Run& run) {
    if (turn < work.whole_rounds) {
      run = {turn++ * static_cast<int>(gridDim.x / kCluster) + cluster, 0, work.chunks};
      return true;
    }
    if (unit >= end) return false;
    const auto tile = static_cast<int>(unit / work.chunks);
    const auto from = static_cast<int>(unit - int64_t{tile} * work.chunks);
    const auto to = static_cast<int>(min(int64_t{from} + end - unit, int64_t{work.chunks}));
    run = {work.whole_tiles + tile, from, to};
    unit += to - from;
    return true;
  }
};

// Tiles by groups of tokens whose activations stay in the cache while all rows pass; in a group by rows,
// whose weights then serve all its tokens.
template <int kTokens>
__device__ __forceinline__ int2 rows_and_tokens(const Work& work, int tile) {
  constexpr int kGroup = 1024 / kTokens;
  const int of_group = (work.row_tiles + kCluster - 1) / kCluster * kGroup, group = tile / of_group;
  const int across = min(kGroup, work.token_tiles - group * kGroup), in_group = tile - group * of_group;
  return {in_group / across, group * kGroup + in_group % across};
}
__device__ __forceinline__ int owner(const Work& work, int64_t unit) {
  return static_cast<int>(((unit + 1) * (gridDim.x / kCluster) - 1) / work.units);
}

template <class F, int kTokens>
__global__ void __launch_bounds__(kThreads, 1) prefill_kernel(const Work work) {
  using T = Tile<F, kTokens>;
  extern __shared__ uint8_t dynamic[];
  __shared__ uint64_t barriers[2 * kMostStages];
  __shared__ bool last_shared;
  const auto begins = static_cast<uint32_t>(__cvta_generic_to_shared(dynamic));
  const uint32_t shared = (begins + 1023) / 1024 * 1024;
  const uint8_t* const stages = dynamic + (shared - begins);
  const auto full = static_cast<uint32_t>(__cvta_generic_to_shared(barriers)), empty = full + 8 * kMostStages;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto rank = static_cast<int>(block_of_cluster());
  const int cluster = blockIdx.x / kCluster;
  if (threadIdx.x == 0) {
    for (int i = 0; i < T::kStages; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, kCluster * kConsumers / 32);
    }
    barriers_made();
  }
  cluster_sync();
  let_next_begin();
  wait_for_previous();

  Runs runs(work, cluster);
  const int first_shared = work.whole_tiles + static_cast<int>(runs.unit / work.chunks);
  Run run;
  if (warp >= kConsumers / 32) {
    give_registers<kFetchRegisters>();
    if (threadIdx.x == kConsumers) {
      int stage = 0, parity = 1;
      while (runs.next(work, cluster, run)) {
        const int2 at_tile = rows_and_tokens<kTokens>(work, run.tile);
        // Beyond the last tile of rows the other block's tokens still go through here.
        const int row_tile = min(at_tile.x * kCluster + rank, work.row_tiles - 1);
#pragma unroll 1
        for (int chunk = run.from; chunk < run.to; ++chunk) {
          const uint8_t* const weights =
              work.weights + (int64_t{row_tile} * kRowWarps * work.chunks + chunk) * kChunkBytes<F>;
          const uint8_t* const x = work.x + (int64_t{at_tile.y} * work.chunks + chunk) * T::kXBytes;
          const uint32_t to = shared + stage * T::kStageBytes, barrier = full + 8 * stage;
          barrier_wait(empty + 8 * stage, parity);
          barrier_expect(barrier, T::kXBytes + T::kWeightBytes);
          constexpr int kShare = T::kRunBytes / kCluster;
#pragma unroll
          for (int i = 0; i < T::kXRuns; ++i) {
            const int at = i * T::kRunBytes + rank * kShare;
            copy_bulk_to_all(to + at, x + at, kShare, barrier, (1 << kCluster) - 1);
          }
#pragma unroll
          for (int strip = 0; strip < kRowWarps; ++strip)
            copy_bulk(to + T::kXBytes + strip * kChunkBytes<F>,
                      weights + int64_t{strip} * work.chunks * kChunkBytes<F>, kChunkBytes<F>, barrier);
          if (++stage == T::kStages) stage = 0, parity ^= 1;
        }
      }
    }
    __syncwarp();
  } else {
    take_registers<kMultiplyRegisters>();
    const int row_in_tile = warp * 16 + lane / 4;
    Multiplier<F, kTokens> multiplier{
        stages + T::kXBytes + warp / 2 * kChunkBytes<F>, shared, full, empty, warp % 2, lane};
    while (runs.next(work, cluster, run)) {
      float sums[kTokens / 2] = {};
      multiplier.run(sums, run.to - run.from);

      const int2 at_tile = rows_and_tokens<kTokens>(work, run.tile);
      const int row_tile = at_tile.x * kCluster + rank, token_tile = at_tile.y;
      const int row = row_tile * kRows + row_in_tile, token = token_tile * kTokens + lane % 4 * 2;
      const auto finish = [&] {
        float2 scale = {1, 1};
        if constexpr (F::kRowScales) {
          if (row < work.rows) scale.x = work.row_scales[row];
          if (row + 8 < work.rows) scale.y = work.row_scales[row + 8];
        }
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) {
          const int own_row = row + i % 4 / 2 * 8, own_token = token + i / 4 * 8 + i % 2;
          if (own_row >= work.rows || own_token >= work.tokens) continue;
          float value = sums[i] * (i % 4 < 2 ? scale.x : scale.y);
          if (work.token_scales != nullptr) value *= work.token_scales[own_token];
          work.y[int64_t{own_token} * work.rows + own_row] = value;
        }
      };
      const int64_t tile_unit = int64_t{run.tile - work.whole_tiles} * work.chunks;
      const bool shares = run.to - run.from < work.chunks;
      const int first_owner = shares ? owner(work, tile_unit) : 0,
                last_owner = shares ? owner(work, tile_unit + work.chunks - 1) : 0;
      if (!shares) {
        finish();
        continue;
      }
      // Clusters that share a tile leave their sums; the last to come adds them up in their order.
      constexpr int kPart = kTokens * kRows;
      const auto part_of = [&](int from, bool second) {
        return reinterpret_cast<float4*>(work.partials) +
               ((2 * (int64_t{from} * kCluster + rank) + second) * kPart) / 4 + threadIdx.x;
      };
      float4* const own = part_of(cluster, run.tile != first_shared);
#pragma unroll
      for (int i = 0; i < kTokens / 8; ++i)
        own[i * kConsumers] = {sums[4 * i], sums[4 * i + 1], sums[4 * i + 2], sums[4 * i + 3]};
      __threadfence();
      asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
      if (threadIdx.x == 0) {
        unsigned* const counter = &work.counters[row_tile * work.token_tiles + token_tile];
        last_shared = atomicAdd(counter, 1u) == static_cast<unsigned>(last_owner - first_owner);
        if (last_shared) *counter = 0;
      }
      asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory");
      const bool last = last_shared;
      if (!last) continue;
      __threadfence();
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) sums[i] = 0;
      for (int from = first_owner; from <= last_owner; ++from) {
        // Only the first of them can have begun before this tile.
        const float4* const other = part_of(from, from == first_owner && first_unit(work, from) < tile_unit);
#pragma unroll
        for (int i = 0; i < kTokens / 8; ++i) {
          const float4 sum = __ldcg(other + i * kConsumers);
          sums[4 * i] += sum.x;
          sums[4 * i + 1] += sum.y;
          sums[4 * i + 2] += sum.z;
          sums[4 * i + 3] += sum.w;
        }
      }
      finish();
    }
  }
  cluster_sync();  // nobody leaves while the other still writes here
}

// x as the products read it: by tiles of tokens and runs of 64 columns, a token's 128 bytes swizzled as
// shared memory wants them, its columns in the order in which weights are packed; zeros beyond tokens and
// columns. Divided by input scales where there are any.
template <bool kSparse>
__global__ void arrange_kernel(const uint16_t* x, int64_t tokens, int64_t cols, const float* input_scales,
                               int tile_tokens, int64_t runs, int64_t pieces, uint4* to) {
  for (int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; index < pieces;
       index += int64_t{gridDim.x} * blockDim.x) {
    const auto piece = static_cast<int>(index % 8);
    const int64_t run = index / 8 % runs, token = index / 8 / runs;
    uint32_t words[4] = {};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int64_t col =
          run * kXCols + (kSparse ? piece * 8 + t * 2 : piece / 4 * 32 + t * 8 + piece % 4 * 2);
      if (token >= tokens || col >= cols) continue;
      const uint16_t* const from = x + token * cols + col;
      words[t] = cols % 2 == 0 ? *reinterpret_cast<const uint32_t*>(from)
                               : from[0] | (col + 1 < cols ? uint32_t{from[1]} << 16 : 0);
      if (input_scales != nullptr)
        words[t] = divided_bf16(words[t] & 0xffffu, input_scales[col]) |
                   (col + 1 < cols ? divided_bf16(words[t] >> 16, input_scales[col + 1]) << 16 : 0);
    }
    const int64_t in_tile = token % tile_tokens;
    to[((token / tile_tokens * runs + run) * tile_tokens + in_tile) * 8 + (piece ^ (in_tile % 8))] = {
        words[0], words[1], words[2], words[3]};
  }
}

// Of tokens, for so many in all.
int tile_of(DecodeFormat format, int64_t tokens) {
  if (tokens > 128) return with_format(format, []<class F>(F) { return kMostTokens<F>; });
  return tokens <= 16 ? 16 : tokens <= 32 ? 32 : tokens <= 64 ? 64 : 128;
}

int64_t tiles_of(DecodeFormat format, int64_t tokens) {
  return (tokens + tile_of(format, tokens) - 1) / tile_of(format, tokens);
}

template <class F, int kTokens>
void launch(const DecodeLayout& layout, const PrefillArguments& a, int64_t token_tiles, cudaStream_t stream) {
  constexpr int kShared = Tile<F, kTokens>::kShared;
  static const cudaError_t allowed =
      cudaFuncSetAttribute(prefill_kernel<F, kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  (void)allowed;  // a launch that is refused says so itself
  Work work{static_cast<const uint8_t*>(a.weights),
            a.row_scales,
            a.token_scales,
            static_cast<const uint8_t*>(a.arranged),
            a.y,
            a.partials,
            a.counters,
            static_cast<int>(layout.rows),
            static_cast<int>(a.tokens),
            static_cast<int>(layout.chunks),
            static_cast<int>(layout.strips / kRowWarps),
            static_cast<int>(token_tiles),
            0,
            0,
            0};
  const int64_t tiles = int64_t{(work.row_tiles + kCluster - 1) / kCluster} * work.token_tiles;
  const int multiprocessors = a.multiprocessors > 0 ? a.multiprocessors : cuda_properties().multiprocessors;
  const int64_t clusters = std::min<int64_t>(multiprocessors / kCluster, tiles * work.chunks);
  work.whole_rounds = static_cast<int>(tiles / clusters);
  work.whole_tiles = static_cast<int>(work.whole_rounds * clusters);
  work.units = (tiles - work.whole_tiles) * work.chunks;
  launch_overlapped(prefill_kernel<F, kTokens>, static_cast<unsigned>(clusters * kCluster), kThreads, kShared,
                    stream, work, kCluster);
}

__global__ void built_kernel(int* answer) {
  *answer = kHasWarpgroups ? 1 : 0;
}

}  // namespace

bool prefill_usable() {
  static const bool usable = [] {
    if (cuda_properties().capability != 90) return false;
    int built = 0, *answer = nullptr;
    if (cudaMalloc(&answer, sizeof built) != cudaSuccess) return false;
    built_kernel<<<1, 1>>>(answer);
    const bool copied = cudaMemcpy(&built, answer, sizeof built, cudaMemcpyDeviceToHost) == cudaSuccess;
    cudaFree(answer);
    return copied && built == 1;
  }();
  return usable;
}

int64_t prefill_x_bytes(DecodeFormat format, const DecodeLayout& layout, int64_t tokens) {
  return tiles_of(format, tokens) * tile_of(format, tokens) * layout.x_cols * 2;
}

int64_t prefill_partial_bytes(DecodeFormat format, int64_t tokens) {
  return 2 * int64_t{cuda_properties().multiprocessors} * tile_of(format, tokens) * kRows * 4;
}

int64_t prefill_counters(DecodeFormat format, const DecodeLayout& layout, int64_t tokens) {
  return (layout.strips / kRowWarps + kCluster - 1) / kCluster * kCluster * tiles_of(format, tokens);
}

void prefill(DecodeFormat format, const DecodeLayout& layout, const PrefillArguments& arguments,
             cudaStream_t stream) {
  const int tile = tile_of(format, arguments.tokens);
  const int64_t tiles = tiles_of(format, arguments.tokens), runs = layout.x_cols / kXCols,
                pieces = tiles * tile * runs * 8;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>((pieces + 255) / 256, 1 << 20));
  with_format(format, [&]<class F>(F) {
    arrange_kernel<F::kSparse><<<blocks, 256, 0, stream>>>(
        static_cast<const uint16_t*>(arguments.x), arguments.tokens, layout.cols, arguments.input_scales,
        tile, runs, pieces, static_cast<uint4*>(arguments.arranged));
    const auto with = [&]<int kTokens>() { launch<F, kTokens>(layout, arguments, tiles, stream); };
    if (tile == 16) return with.template operator()<16>();
    if (tile == 32) return with.template operator()<32>();
    if (tile == 64) return with.template operator()<64>();
    if (tile == 128) return with.template operator()<128>();
    if constexpr (kMostTokens<F> == 256) with.template operator()<256>();
  });
}

}  // namespace lamina

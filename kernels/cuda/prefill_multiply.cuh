// What a warpgroup does with chunks that wait in shared memory: codes to registers, widened there, and both
// they and the tokens beside them to the tensor cores.
#pragma once

#include "kernels/cuda/decode_formats.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace lamina {
namespace {

constexpr int kCluster = 2;  // blocks of threads side by side along rows, which share the tokens they fetch
constexpr int kWarpgroups = 2;
constexpr int kConsumers = kWarpgroups * 128;  // threads; one of a warpgroup more fetches for them
constexpr int kThreads = kConsumers + 128;
constexpr int kFetchRegisters = 56, kMultiplyRegisters = 224;
constexpr int kRows = kWarpgroups * 64;  // of a block's tile
constexpr int kXCols = 64;               // of a run of activations: 128 bytes, which the swizzle is of
constexpr int kMostShared = 226 << 10, kMostStages = 8;
static_assert(kRows == kBlockRows);

template <class F, int kTokens>
struct Tile {
  static constexpr int kXRuns = F::kChunkCols / kXCols;
  static constexpr int kRunBytes = kTokens * kXCols * 2;
  static constexpr int kXBytes = kXRuns * kRunBytes;
  static constexpr int kWeightBytes = kRowWarps * kChunkBytes<F>;
  static constexpr int kStageBytes = (kXBytes + kWeightBytes + 1023) / 1024 * 1024;
  static constexpr int kFit = kMostShared / kStageBytes;
  static constexpr int kStages = kFit < kMostStages ? kFit : kMostStages;
  static constexpr int kShared = kStages * kStageBytes + 1024;  // to begin at a multiple of it
  static_assert(kStages >= 2);
};

// What one step multiplies: A's registers of this lane and, of 2:4, which columns they are.
template <class F>
__device__ __forceinline__ void load_step(const uint8_t* chunk, int tile, int step, int lane, uint32_t* a,
                                          uint32_t* meta) {
  const int word = step * F::kStepWords;
  const uint4 words = *reinterpret_cast<const uint4*>(chunk + ((tile * 2 + word / 4) * 32 + lane) * 16);
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
  F::widen(all + word % 4, a);
  if constexpr (F::kSparse)
    *meta = *reinterpret_cast<const uint32_t*>(chunk + kMetaAt<F> +
                                               (step * 32 + (lane & ~3) + tile * 2 + (lane & 1)) * 4);
}

// What a warpgroup multiplies without waiting in between: a group, or a chunk where there are none.
template <class F>
struct Round {
  static constexpr int kSteps = F::kGrouped && F::kGroup / 16 < F::kSteps ? F::kGroup / 16 : F::kSteps;
  static constexpr int kOfChunk = F::kSteps / kSteps;
  uint32_t a[kSteps][4], meta[kSteps];

  __device__ __forceinline__ void load(const uint8_t* chunk, int tile, int round, int lane) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) load_step<F>(chunk, tile, round * kSteps + s, lane, a[s], &meta[s]);
  }
  // Puts the products by the tokens at shared address `x` on their way into `sums`; of the first they are
  // these alone.
  template <int kTokens>
  __device__ __forceinline__ void multiply(float (&sums)[kTokens / 2], uint32_t x, int round,
                                           bool first) const {
    constexpr int kStepBytes = F::kSparse ? 64 : 32;  // of a token's 128
    constexpr int kRunSteps = 128 / kStepBytes;
    warpgroup_fence();
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int step = round * kSteps + s;
      const uint64_t b =
          matrix_at(x + step / kRunSteps * Tile<F, kTokens>::kRunBytes + step % kRunSteps * kStepBytes);
      if constexpr (F::kSparse)
        multiply_warpgroup_24(sums, a[s], b, meta[s], first && s == 0);
      else
        multiply_warpgroup(sums, a[s], b, first && s == 0);
    }
    warpgroup_commit();
  }
};

// A warpgroup's way through the ring.
struct Place {
  int stage = 0, parity = 0;
  template <int kStages>
  __device__ __forceinline__ Place next() const {
    return stage + 1 == kStages ? Place{0, parity ^ 1} : Place{stage + 1, parity};
  }
};

// The chunks of a tile that fall to this cluster, by 16 rows a warp. While products are on their way the next
// round's codes are widened, into the other of two sets of registers. A group's sum takes its scale and is
// added by ordinary additions.
template <class F, int kTokens>
struct Multiplier {
  using T = Tile<F, kTokens>;
  using R = Round<F>;
  const uint8_t* weights;  // of the first stage: this warp's strip
  uint32_t x, full, empty;
  int tile, lane;
  Place place;
  R rounds[2];

  __device__ __forceinline__ const uint8_t* chunk(Place at) const {
    return weights + at.stage * T::kStageBytes;
  }
  __device__ __forceinline__ void release(Place at) const {
    __syncwarp();
    if (lane < kCluster) barrier_arrive(empty + 8 * at.stage, lane);
  }

  // The chunk at `place`, whose first round waits in rounds[kFirst]; leaves the next one's in
  // rounds[(kFirst + R::kOfChunk) % 2].
  template <int kFirst>
  __device__ __forceinline__ void step(float (&sums)[kTokens / 2], bool first, bool last) {
    const Place after = place.template next<T::kStages>();
    const auto load_next = [&](auto& to) {
      if (last) return;
      barrier_wait(full + 8 * after.stage, after.parity);
      to.load(chunk(after), tile, 0, lane);
    };
    if constexpr (!F::kGrouped) {
      rounds[kFirst].template multiply<kTokens>(sums, x + place.stage * T::kStageBytes, 0, first);
      if (!first) {
        warpgroup_wait_but_one();
        release(before);
      }
      load_next(rounds[1 - kFirst]);
      before = place;
    } else {
#pragma unroll
      for (int round = 0; round < R::kOfChunk; ++round) {
        float part[kTokens / 2];
        rounds[(kFirst + round) % 2].template multiply<kTokens>(part, x + place.stage * T::kStageBytes, round,
                                                                true);
        auto& other = rounds[(kFirst + round + 1) % 2];
        if (round + 1 < R::kOfChunk)
          other.load(chunk(place), tile, round + 1, lane);
        else
          load_next(other);
        const float2 scale = *reinterpret_cast<const float2*>(chunk(place) + kCodeBytes +
                                                              ((round * 8 + lane / 4) * kTiles + tile) * 8);
        warpgroup_wait(part);
#pragma unroll
        for (int i = 0; i < kTokens / 2; ++i) sums[i] += (i % 4 < 2 ? scale.x : scale.y) * part[i];
      }
      release(place);
    }
    place = after;
  }

  __device__ __forceinline__ void run(float (&sums)[kTokens / 2], int64_t chunks) {
    barrier_wait(full + 8 * place.stage, place.parity);
    rounds[0].load(chunk(place), tile, 0, lane);
    for (int64_t i = 0; i < chunks;) {
      step<0>(sums, i == 0, i + 1 == chunks);
      ++i;
      if constexpr (R::kOfChunk % 2 == 1) {
        if (i == chunks) break;
        step<1>(sums, false, i + 1 == chunks);
        ++i;
      }
    }
    if constexpr (!F::kGrouped) {
      warpgroup_wait(sums);
      release(before);
    }
  }
  Place before;  // whose products may still be on their way
};

}  // namespace
}  // namespace lamina

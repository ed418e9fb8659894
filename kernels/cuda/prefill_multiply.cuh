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
constexpr int kFetchRegisters = 40, kMultiplyRegisters = 232;
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
};
// Of tokens, the most that a tile can have: two stages have to fit. Groups of 32 are so short that the
// compiler would have the products of larger tiles wait for one another.
template <class F>
constexpr int kMostTokens = Tile<F, 256>::kFit >= 2 && !(F::kGrouped && F::kGroup < 64) ? 256 : 128;

// What one step multiplies: A's registers of this lane and, of 2:4, which columns they are.
template <class F>
__device__ __forceinline__ void load_step(const uint8_t* chunk, int tile, int step, int lane,
                                          const uint2& zeros, uint32_t* a, uint32_t* meta) {
  const int word = step * F::kStepWords;
  const uint4 words = *reinterpret_cast<const uint4*>(chunk + ((tile * 2 + word / 4) * 32 + lane) * 16);
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
  F::widen(all + word % 4, a, zeros);
  if constexpr (F::kSparse)
    *meta = *reinterpret_cast<const uint32_t*>(chunk + kMetaAt<F> +
                                               (step * 32 + (lane & ~3) + tile * 2 + (lane & 1)) * 4);
}

constexpr int least_of(int a, int b) {
  return a < b ? a : b;
}

// How sums of groups meet their scales. With many tokens they are kept in units of the last group's scale:
// before a group's products join them they are multiplied by the scale before over its own. With fewer,
// registers hold a group's sums beside those of all, to which they are added times their scale.
enum class Scaling { none, running, apart };
template <class F, int kTokens>
constexpr Scaling kScaling = !F::kGrouped    ? Scaling::none
                             : kTokens > 128 ? Scaling::running
                                             : Scaling::apart;

// What is widened at a time: a group or a part of it, so little that registers hold two of it.
template <class F, int kTokens>
struct Round {
  static constexpr int kGroupSteps = F::kGrouped ? F::kGroup / 16 : F::kSteps;
  static constexpr int kSteps = least_of(kTokens > 128 ? 4 : 8, least_of(kGroupSteps, F::kSteps));
  static constexpr int kOfChunk = F::kSteps / kSteps, kOfGroup = kGroupSteps / kSteps;
  uint32_t a[kSteps][4], meta[kSteps];

  __device__ __forceinline__ void load(const uint8_t* chunk, int tile, int round, int lane) {
    const uint2 zeros = zeros_of<F>(chunk, round / kOfGroup, lane / 4, tile);
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      load_step<F>(chunk, tile, round * kSteps + s, lane, zeros, a[s], &meta[s]);
  }
  // Puts the products by the tokens at shared address `x` on their way into `sums`; of the first they are
  // these alone.
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
// round's codes are widened, into the other of two sets of registers.
template <class F, int kTokens>
struct Multiplier {
  using T = Tile<F, kTokens>;
  using R = Round<F, kTokens>;
  using Sums = float[kTokens / 2];
  static constexpr Scaling kHow = kScaling<F, kTokens>;
  const uint8_t* weights;  // of the first stage: this warp's strip
  uint32_t x, full, empty;
  int tile, lane;
  Place place;
  R rounds[2];
  float2 scales[2];  // of the group that a round is of
  float2 unit;       // of the running sums

  __device__ __forceinline__ const uint8_t* chunk(Place at) const {
    return weights + at.stage * T::kStageBytes;
  }
  __device__ __forceinline__ void release(Place at) const {
    __syncwarp();
    if (lane < kCluster) barrier_arrive(empty + 8 * at.stage, lane);
  }
  template <int kSet>
  __device__ __forceinline__ void load(Place at, int round) {
    rounds[kSet].load(chunk(at), tile, round, lane);
    if constexpr (F::kGrouped) scales[kSet] = scales_of<F>(chunk(at), round / R::kOfGroup, lane / 4, tile);
  }
  __device__ __forceinline__ void multiply_by(Sums& sums, const float2& by) const {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sums[i] *= i % 4 < 2 ? by.x : by.y;
  }
  __device__ __forceinline__ void add(Sums& sums, const Sums& part, const float2& scale) const {
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) sums[i] += (i % 4 < 2 ? scale.x : scale.y) * part[i];
  }
  // Of running sums, to the unit of a group that begins. One of scale 0 has only zeros: it takes any.
  __device__ __forceinline__ void rescale(Sums& sums, const float2& next, bool first) {
    if (first) {
      unit = {next.x == 0 ? 1.0f : next.x, next.y == 0 ? 1.0f : next.y};
      return;
    }
    warpgroup_wait(sums);
    multiply_by(sums, {next.x == 0 ? 1.0f : __fdiv_rn(unit.x, next.x),
                       next.y == 0 ? 1.0f : __fdiv_rn(unit.y, next.y)});
    unit = {next.x == 0 ? unit.x : next.x, next.y == 0 ? unit.y : next.y};
  }

  // The round that waits in set kSet, of the chunk at `place`; leaves the next one in the other set.
  template <int kSet>
  __device__ __forceinline__ void step(Sums& sums, Sums& part, Place after, int round, bool first,
                                       bool last) {
    const bool begins = first && round == 0;
    const uint32_t from = x + place.stage * T::kStageBytes;
    const auto load_next = [&] {
      if (round + 1 < R::kOfChunk) {
        load<1 - kSet>(place, round + 1);
      } else if (!last) {
        barrier_wait(full + 8 * after.stage, after.parity);
        load<1 - kSet>(after, 0);
      }
    };
    if constexpr (kHow == Scaling::apart) {
      rounds[kSet].multiply(part, from, round, true);
      load_next();
      warpgroup_wait(part);
      add(sums, part, scales[kSet]);
      if (round + 1 == R::kOfChunk) release(place);
      return;
    }
    if (kHow == Scaling::running && round % R::kOfGroup == 0) rescale(sums, scales[kSet], begins);
    rounds[kSet].multiply(sums, from, round, begins);
    // The round before is done then: its registers are free, and its chunk if it was the last of one.
    if (!begins) {
      warpgroup_wait_but_one();
      if (round == 0) release(before);
    }
    load_next();
  }

  // A chunk whose first round waits in set kFirst.
  template <int kFirst>
  __device__ __forceinline__ void take(Sums& sums, Sums& part, bool first, bool last) {
    const Place after = place.template next<T::kStages>();
#pragma unroll
    for (int round = 0; round < R::kOfChunk; ++round) {
      if ((kFirst + round) % 2 == 0)
        step<0>(sums, part, after, round, first, last);
      else
        step<1>(sums, part, after, round, first, last);
    }
    before = place;
    place = after;
  }

  // `sums` are zeros.
  __device__ __forceinline__ void run(Sums& sums, int64_t chunks) {
    Sums part;
    barrier_wait(full + 8 * place.stage, place.parity);
    load<0>(place, 0);
    for (int64_t i = 0; i < chunks;) {
      take<0>(sums, part, i == 0, i + 1 == chunks);
      ++i;
      if constexpr (R::kOfChunk % 2 == 1) {
        if (i == chunks) break;
        take<1>(sums, part, false, i + 1 == chunks);
        ++i;
      }
    }
    if constexpr (kHow == Scaling::apart) return;
    warpgroup_wait(sums);
    release(before);
    if constexpr (kHow == Scaling::running) multiply_by(sums, unit);
  }
  Place before;  // whose products may still be on their way
};

}  // namespace
}  // namespace lamina

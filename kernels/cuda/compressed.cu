#include "kernels/cuda/compressed.hpp"

#include <cuda_fp8.h>

#include <stdexcept>

#include "kernels/activations.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/peer_memory.cuh"

namespace lamina {
namespace {

constexpr int kBlocks = 256;  // always as many, so that their epochs agree
constexpr int kWarps = 16;
constexpr int kLaneNumbers = 8;
constexpr int kRowNumbers = 32 * kLaneNumbers;  // of a warp's lanes
constexpr int kRows = 8;
constexpr int kTile = kRows * kRowNumbers;  // what a warp quantizes, sends and flags at a time
// A rank's memory: two halves by turns, each with what the others send to be added and with their sums. A
// slot from each rank in both, a record a tile: codes, scales, flag.
constexpr int64_t kAreaBytes = int64_t{64} << 20;
constexpr int kMostScales = kTile / 32;
constexpr int kRecordBytes = kTile + 4 * kMostScales + 64;  // enough for any code and block; whole lines

struct Work {
  CompressedCall call;
  int64_t tiles;  // of a rank's part
  int64_t slot_bytes;
  bool in_aligned, out_aligned;
};

// Of a record. Bytes of codes first.
struct Record {
  uint8_t* at;
  int code_bytes;
  __device__ float* scales() const { return reinterpret_cast<float*>(at + code_bytes); }
  __device__ uint32_t* flag() const { return reinterpret_cast<uint32_t*>(at + kRecordBytes - 64); }
};

// Eight numbers of a lane as codes, and back.
template <PayloadCode kCode>
struct Codec;

template <>
struct Codec<PayloadCode::int8> {
  static constexpr float kMost = 127;
  static constexpr int kBytes = 8;
  __device__ static uint2 encode(const float* x) {
    uint2 codes{};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t code =
          static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(x[i], -127.0f), 127.0f))) & 0xffu;
      (i < 4 ? codes.x : codes.y) |= code << (i % 4 * 8);
    }
    return codes;
  }
  __device__ static void decode(uint2 codes, float* x) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t word = i < 4 ? codes.x : codes.y;
      x[i] = static_cast<float>(static_cast<int8_t>(word >> (i % 4 * 8)));
    }
  }
};

template <>
struct Codec<PayloadCode::fp8> {
  static constexpr float kMost = 448;
  static constexpr int kBytes = 8;
  __device__ static uint2 encode(const float* x) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[i] = __nv_cvt_float2_to_fp8x2({x[2 * i], x[2 * i + 1]}, __NV_SATFINITE, __NV_E4M3);
    return {words[0] | words[1] << 16, words[2] | words[3] << 16};
  }
  __device__ static void decode(uint2 codes, float* x) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = (i < 2 ? codes.x : codes.y) >> (i % 2 * 16);
      const __half2_raw two = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word), __NV_E4M3);
      const float2 wide = __half22float2(__half2(two));
      x[2 * i] = wide.x;
      x[2 * i + 1] = wide.y;
    }
  }
};

template <>
struct Codec<PayloadCode::int4> {
  static constexpr float kMost = 7;
  static constexpr int kBytes = 4;
  __device__ static uint2 encode(const float* x) {
    uint2 codes{};
#pragma unroll
    for (int i = 0; i < 8; ++i)
      codes.x |= (static_cast<uint32_t>(__float2int_rn(fminf(fmaxf(x[i], -7.0f), 7.0f))) & 0xfu) << (4 * i);
    return codes;
  }
  __device__ static void decode(uint2 codes, float* x) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      x[i] = static_cast<float>(static_cast<int32_t>(codes.x << (28 - 4 * i)) >> 28);
  }
};

template <class Type>
__device__ __forceinline__ void load_numbers(const Work& work, int64_t at, float* x) {
  constexpr int kVectors = kLaneNumbers / Type::kNumbers;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
    Type::widen(load_vector<Type>(work.call.in, at / Type::kNumbers + v, work.call.count, work.in_aligned),
                x + v * Type::kNumbers);
}
template <class Type>
__device__ __forceinline__ void store_numbers(const Work& work, int64_t at, const float* x) {
  constexpr int kVectors = kLaneNumbers / Type::kNumbers;
#pragma unroll
  for (int v = 0; v < kVectors; ++v)
    store_vector<Type>(work.call.out, at / Type::kNumbers + v, work.call.count, work.out_aligned,
                       Type::narrow(x + v * Type::kNumbers));
}

// Codes and scale of the block that this lane's numbers belong to; x becomes what the codes say.
template <PayloadCode kCode>
__device__ __forceinline__ uint2 quantize(float* x, int lanes, float* scale) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kLaneNumbers; ++i) amax = fmaxf(amax, fabsf(x[i]));
  for (int offset = lanes / 2; offset > 0; offset /= 2)
    amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
  const bool zero = amax < kSmallestActivation;
  const float inverse = zero ? 0.0f : __fdiv_rn(Codec<kCode>::kMost, amax);
  *scale = zero ? 0.0f : __fdiv_rn(amax, Codec<kCode>::kMost);
#pragma unroll
  for (int i = 0; i < kLaneNumbers; ++i) x[i] *= inverse;
  const uint2 codes = Codec<kCode>::encode(x);
  Codec<kCode>::decode(codes, x);
#pragma unroll
  for (int i = 0; i < kLaneNumbers; ++i) x[i] *= *scale;
  return codes;
}

template <PayloadCode kCode>
__device__ __forceinline__ void put_codes(uint8_t* record, int row, int lane, uint2 codes) {
  uint8_t* to = record + (row * 32 + lane) * Codec<kCode>::kBytes;
  if constexpr (Codec<kCode>::kBytes == 8)
    asm volatile("st.relaxed.sys.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(codes.x), "r"(codes.y)
                 : "memory");
  else
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(to), "r"(codes.x) : "memory");
}
template <PayloadCode kCode>
__device__ __forceinline__ uint2 get_codes(const uint8_t* record, int row, int lane) {
  const uint8_t* from = record + (row * 32 + lane) * Codec<kCode>::kBytes;
  uint2 codes{};
  if constexpr (Codec<kCode>::kBytes == 8)
    codes = __ldcg(reinterpret_cast<const uint2*>(from));
  else
    codes.x = __ldcg(reinterpret_cast<const uint32_t*>(from));
  return codes;
}

__device__ __forceinline__ void await_record(const Record& record, int lane, uint32_t epoch) {
  if (lane == 0) await(record.flag(), epoch);
  __syncwarp();
}

// Scales of a tile, kept by the lanes that will write them next to one another.
struct Scales {
  float kept[2] = {};
  __device__ void keep(int row, int lanes, int lane, float scale) {
    const int groups = 32 / lanes;
    for (int g = 0; g < groups; ++g) {
      const float of_group = __shfl_sync(~0u, scale, g * lanes);
      const int index = row * groups + g;
      if (lane == index % 32) kept[index / 32] = of_group;
    }
  }
  __device__ void put(const Record& record, int lanes, int lane) const {
    const int count = kRows * (32 / lanes);
    if (lane < count) put_one(record.scales() + lane, kept[0]);
    if (lane + 32 < count) put_one(record.scales() + lane + 32, kept[1]);
  }
  __device__ static void put_one(float* to, float value) {
    asm volatile("st.relaxed.sys.global.f32 [%0], %1;" ::"l"(to), "f"(value) : "memory");
  }
};

template <class Type, PayloadCode kCode>
__global__ void __launch_bounds__(kWarps * 32, 2) compressed_kernel(const __grid_constant__ Work work) {
  const CompressedCall& call = work.call;
  const uint32_t epoch = call.group.epochs[blockIdx.x] + 1;
  const int rank = call.group.rank, ranks = call.group.ranks, lane = threadIdx.x % 32;
  const int lanes = call.block / kLaneNumbers;  // of a block of numbers
  constexpr int kCodeBytes = 32 * kRows * Codec<kCode>::kBytes;
  const auto record = [&](int where, bool sums, int from, int64_t tile) -> Record {
    return {call.group.memory[where] + (2 * (epoch & 1) + (sums ? 1 : 0)) * kAreaBytes +
                from * work.slot_bytes + tile * kRecordBytes,
            kCodeBytes};
  };
  const auto number_of = [&](int part, int64_t tile, int row) {
    return (part * work.tiles + tile) * kTile + row * kRowNumbers + lane * kLaneNumbers;
  };
  const auto add_residual = [&](int64_t at, float* x) {
#pragma unroll
    for (int i = 0; i < kLaneNumbers; ++i)
      if (at + i < call.count) x[i] += call.residual[at + i];
  };
  const auto leave_residual = [&](int64_t at, const float* wanted, const float* got) {
#pragma unroll
    for (int i = 0; i < kLaneNumbers; ++i)
      if (at + i < call.count) call.residual[at + i] = wanted[i] - got[i];
  };
  const int64_t first = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32, step = int64_t{gridDim.x} * kWarps;

  // Every rank's part to that rank.
  for (int64_t tile = first; tile < work.tiles; tile += step)
    for (int hop = 1; hop < ranks; ++hop) {
      const int peer = (rank + hop) % ranks;
      if (number_of(peer, tile, 0) - lane * kLaneNumbers >= call.count) continue;
      const Record to = record(peer, false, rank, tile);
      Scales scales;
#pragma unroll 2
      for (int row = 0; row < kRows; ++row) {
        const int64_t at = number_of(peer, tile, row);
        float x[kLaneNumbers], wanted[kLaneNumbers];
        load_numbers<Type>(work, at, x);
        if (call.residual != nullptr) {
          add_residual(at, x);
#pragma unroll
          for (int i = 0; i < kLaneNumbers; ++i) wanted[i] = x[i];
        }
        float scale;
        put_codes<kCode>(to.at, row, lane, quantize<kCode>(x, lanes, &scale));
        scales.keep(row, lanes, lane, scale);
        if (call.residual != nullptr) leave_residual(at, wanted, x);
      }
      scales.put(to, lanes, lane);
      __syncwarp();
      if (lane == 0) signal(to.flag(), epoch);
    }

  // This rank's part: its own numbers exactly, the others' codes in rank order; the sum to everyone.
  for (int64_t tile = first; tile < work.tiles; tile += step) {
    if (number_of(rank, tile, 0) - lane * kLaneNumbers >= call.count) continue;
    for (int r = 0; r < ranks; ++r)
      if (r != rank) await_record(record(rank, false, r, tile), lane, epoch);
    Scales scales;
    for (int row = 0; row < kRows; ++row) {
      const int64_t at = number_of(rank, tile, row);
      float sum[kLaneNumbers] = {}, wanted[kLaneNumbers];
      for (int r = 0; r < ranks; ++r) {
        float x[kLaneNumbers];
        if (r == rank) {
          load_numbers<Type>(work, at, x);
          if (call.residual != nullptr) add_residual(at, x);
        } else {
          const Record from = record(rank, false, r, tile);
          const float scale = __ldcg(from.scales() + row * (32 / lanes) + lane / lanes);
          Codec<kCode>::decode(get_codes<kCode>(from.at, row, lane), x);
#pragma unroll
          for (int i = 0; i < kLaneNumbers; ++i) x[i] *= scale;
        }
#pragma unroll
        for (int i = 0; i < kLaneNumbers; ++i) sum[i] += x[i];
      }
#pragma unroll
      for (int i = 0; i < kLaneNumbers; ++i) wanted[i] = sum[i];
      float scale;
      const uint2 codes = quantize<kCode>(sum, lanes, &scale);
      for (int hop = 1; hop < ranks; ++hop)
        put_codes<kCode>(record((rank + hop) % ranks, true, rank, tile).at, row, lane, codes);
      scales.keep(row, lanes, lane, scale);
      store_numbers<Type>(work, at, sum);
      if (call.residual != nullptr) leave_residual(at, wanted, sum);
    }
    for (int hop = 1; hop < ranks; ++hop) {
      const Record to = record((rank + hop) % ranks, true, rank, tile);
      scales.put(to, lanes, lane);
    }
    __syncwarp();
    if (lane == 0)
      for (int hop = 1; hop < ranks; ++hop)
        signal(record((rank + hop) % ranks, true, rank, tile).flag(), epoch);
  }

  // The others' sums.
  for (int64_t tile = first; tile < work.tiles; tile += step)
    for (int hop = 1; hop < ranks; ++hop) {
      const int peer = (rank + hop) % ranks;
      if (number_of(peer, tile, 0) - lane * kLaneNumbers >= call.count) continue;
      const Record from = record(rank, true, peer, tile);
      await_record(from, lane, epoch);
#pragma unroll 2
      for (int row = 0; row < kRows; ++row) {
        float x[kLaneNumbers];
        const float scale = __ldcg(from.scales() + row * (32 / lanes) + lane / lanes);
        Codec<kCode>::decode(get_codes<kCode>(from.at, row, lane), x);
#pragma unroll
        for (int i = 0; i < kLaneNumbers; ++i) x[i] *= scale;
        store_numbers<Type>(work, number_of(peer, tile, row), x);
      }
    }
  __syncthreads();  // all have read the epoch
  if (threadIdx.x == 0) call.group.epochs[blockIdx.x] = epoch;
}

int64_t slot_bytes(int ranks) {
  return kAreaBytes / ranks / kRecordBytes * kRecordBytes;
}

template <class Type>
void launch(const Work& work, cudaStream_t stream) {
  switch (work.call.code) {
    case PayloadCode::int8:
      compressed_kernel<Type, PayloadCode::int8><<<kBlocks, kWarps * 32, 0, stream>>>(work);
      return;
    case PayloadCode::fp8:
      compressed_kernel<Type, PayloadCode::fp8><<<kBlocks, kWarps * 32, 0, stream>>>(work);
      return;
    case PayloadCode::int4:
      compressed_kernel<Type, PayloadCode::int4><<<kBlocks, kWarps * 32, 0, stream>>>(work);
      return;
  }
}

}  // namespace

int64_t compressed_bytes() {
  return 4 * kAreaBytes;
}

int64_t compressed_epoch_bytes() {
  return kBlocks * static_cast<int64_t>(sizeof(uint32_t));
}

int64_t compressed_limit(int ranks) {
  return slot_bytes(ranks) / kRecordBytes * kTile * ranks;
}

void compressed_all_reduce(const CompressedCall& call, cudaStream_t stream) {
  if (call.count <= 0) return;
  const bool block_fits = call.block == 32 || call.block == 64 || call.block == 128 || call.block == 256;
  if (!block_fits || call.count > compressed_limit(call.group.ranks))
    throw std::logic_error(
        "compressed_all_reduce: expected blocks of 32 to 256 and compressed_limit() numbers");
  Work work{.call = call};
  const int64_t ranks = call.group.ranks;
  work.tiles = (call.count + ranks * kTile - 1) / (ranks * kTile);
  work.slot_bytes = slot_bytes(call.group.ranks);
  work.in_aligned = reinterpret_cast<uintptr_t>(call.in) % 16 == 0;
  work.out_aligned = reinterpret_cast<uintptr_t>(call.out) % 16 == 0;
  switch (call.type) {
    case OneshotType::f32:
      return launch<Float32>(work, stream);
    case OneshotType::bf16:
      return launch<Bfloat16>(work, stream);
    case OneshotType::f16:
      return launch<Float16>(work, stream);
  }
}

}  // namespace lamina

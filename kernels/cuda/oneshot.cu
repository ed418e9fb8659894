#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/oneshot.hpp"
#include "kernels/cuda/peer_memory.cuh"
#include "kernels/cuda/probes.hpp"

namespace lamina {
namespace {

constexpr int kBlocks =
    128;  // all of them run at once: one that waited for another's place might wait for ever
constexpr int kVectorBytes = 16;
// A rank's memory: two halves, which calls of a block of threads take in turn. Each half holds what the
// others send of their inputs and, in the second shot, their sums: a slot from each rank, of which each block
// of threads has a part of its own. So a word has one writer and one reader, the same thread of each side.
constexpr int64_t kAreaBytes = int64_t{64} << 20;

struct Call {
  OneshotGroup group;
  const void* in;
  void* out;
  int64_t count;    // numbers
  int64_t vectors;  // of the message
  int64_t part;     // of them, a rank's in two shots; all in one
  int64_t share;    // of a part, a block's
  int64_t slot_bytes, block_bytes;
  bool in_aligned, out_aligned;
};

__device__ __forceinline__ Vector plain_zeros(Vector v) {
#pragma unroll
  for (uint32_t& word : v.words)
    if (word == kWaiting) word = 0;
  return v;
}

// Waits for all four words, and makes their place ready for the call after the next.
__device__ __forceinline__ Vector take(uint8_t* from, Vector v) {
  while (v.words[0] == kWaiting || v.words[1] == kWaiting || v.words[2] == kWaiting || v.words[3] == kWaiting)
    v = peek(from);
  push(from, {{kWaiting, kWaiting, kWaiting, kWaiting}});
  return v;
}

// Where rank `of`'s vector i of this block lies in the memory of a rank.
struct Place {
  int64_t half, slot_bytes, block;
  __device__ int64_t operator()(int of, int64_t i, bool sums = false) const {
    return half + (sums ? kAreaBytes : 0) + of * slot_bytes + block + i * kVectorBytes;
  }
};

// The sum over ranks of what they sent for vector i, with this rank's own, in rank order.
template <class Type, int kMost>
__device__ __forceinline__ Vector sum_vector(const Call& call, const Place& place, int64_t i,
                                             const Vector& own) {
  uint8_t* memory = call.group.memory[call.group.rank];
  Vector came[kMost];
#pragma unroll
  for (int r = 0; r < kMost; ++r)  // all on their way at once
    if (r < call.group.ranks && r != call.group.rank) came[r] = peek(memory + place(r, i));
  float sums[Type::kNumbers];
#pragma unroll
  for (int r = 0; r < kMost; ++r) {
    if (r >= call.group.ranks) break;
    const Vector v = r == call.group.rank ? own : take(memory + place(r, i), came[r]);
    float numbers[Type::kNumbers];
    Type::widen(v, numbers);
#pragma unroll
    for (int n = 0; n < Type::kNumbers; ++n) sums[n] = r == 0 ? numbers[n] : sums[n] + numbers[n];
  }
  return Type::narrow(sums);
}

// Each thread sends its vectors to every rank, then adds up what it got at the same places.
template <class Type, int kMost>
__global__ void __launch_bounds__(512) one_shot_kernel(const __grid_constant__ Call call) {
  begin_after_previous();
  const uint32_t epoch = call.group.epochs[blockIdx.x];
  const int64_t first = blockIdx.x * call.share;
  const int64_t mine = min(call.share, call.vectors - first);
  const Place place{(epoch & 1) * 2 * kAreaBytes, call.slot_bytes, blockIdx.x * call.block_bytes};
  const auto load = [&](int64_t i) {
    return plain_zeros(load_vector<Type>(call.in, first + i, call.count, call.in_aligned));
  };
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) {
    const Vector own = load(i);
#pragma unroll
    for (int step = 1; step < kMost; ++step) {  // each rank begins with another
      if (step >= call.group.ranks) break;
      const int peer = (call.group.rank + step) % call.group.ranks;
      push(call.group.memory[peer] + place(call.group.rank, i), own);
    }
  }
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x)
    store_vector<Type>(call.out, first + i, call.count, call.out_aligned,
                       sum_vector<Type, kMost>(call, place, i, load(i)));
  __syncthreads();  // all have read the epoch
  if (threadIdx.x == 0) call.group.epochs[blockIdx.x] = epoch + 1;
}

// Each rank adds up a part of the message and sends the sums around.
template <class Type, int kMost>
__global__ void __launch_bounds__(512) two_shot_kernel(const __grid_constant__ Call call) {
  begin_after_previous();
  const uint32_t epoch = call.group.epochs[blockIdx.x];
  const int rank = call.group.rank, ranks = call.group.ranks;
  const int64_t first = blockIdx.x * call.share;
  const int64_t mine = min(call.share, call.part - first);
  const Place place{(epoch & 1) * 2 * kAreaBytes, call.slot_bytes, blockIdx.x * call.block_bytes};
  const auto vector_of = [&](int of, int64_t i) { return of * call.part + first + i; };
  const auto load = [&](int64_t v) {
    return plain_zeros(load_vector<Type>(call.in, v, call.count, call.in_aligned));
  };
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) {
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= ranks) break;
      const int peer = (rank + step) % ranks;
      const int64_t v = vector_of(peer, i);
      if (v < call.vectors) push(call.group.memory[peer] + place(rank, i), load(v));
    }
  }
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) {
    const int64_t v = vector_of(rank, i);
    if (v >= call.vectors) break;
    const Vector sum = plain_zeros(sum_vector<Type, kMost>(call, place, i, load(v)));
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= ranks) break;
      push(call.group.memory[(rank + step) % ranks] + place(rank, i, true), sum);
    }
    store_vector<Type>(call.out, v, call.count, call.out_aligned, sum);
  }
  uint8_t* memory = call.group.memory[rank];
  for (int64_t i = threadIdx.x; i < mine; i += blockDim.x) {
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= ranks) break;
      const int peer = (rank + step) % ranks;
      const int64_t v = vector_of(peer, i);
      if (v >= call.vectors) continue;
      uint8_t* from = memory + place(peer, i, true);
      store_vector<Type>(call.out, v, call.count, call.out_aligned, take(from, peek(from)));
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) call.group.epochs[blockIdx.x] = epoch + 1;
}

template <class Type, int kMost>
void launch(const Call& call, bool two_shots, unsigned blocks, unsigned threads, cudaStream_t stream) {
  launch_overlapped(two_shots ? two_shot_kernel<Type, kMost> : one_shot_kernel<Type, kMost>, blocks, threads,
                    0, stream, call);
}

template <class Type>
void launch_for(Call call, bool two_shots, cudaStream_t stream) {
  call.vectors = (call.count + Type::kNumbers - 1) / Type::kNumbers;
  const int ranks = call.group.ranks;
  call.part = two_shots ? (call.vectors + ranks - 1) / ranks : call.vectors;
  call.slot_bytes = kAreaBytes / ranks / (kBlocks * kVectorBytes) * (kBlocks * kVectorBytes);
  call.block_bytes = call.slot_bytes / kBlocks;
  // Many small blocks of threads while each has a vector a thread: they spread over the multiprocessors.
  const int64_t threads = call.part <= int64_t{kBlocks} * 128   ? 128
                          : call.part <= int64_t{kBlocks} * 256 ? 256
                                                                : 512;
  const int64_t blocks = std::min<int64_t>((call.part + threads - 1) / threads, kBlocks);
  call.share = (call.part + blocks - 1) / blocks;
  if (call.share * kVectorBytes > call.block_bytes)
    throw std::logic_error("oneshot_all_reduce: a message over oneshot_limit()");
  const auto grid = static_cast<unsigned>(blocks), block = static_cast<unsigned>(threads);
  if (ranks <= 2)
    launch<Type, 2>(call, two_shots, grid, block, stream);
  else if (ranks <= 4)
    launch<Type, 4>(call, two_shots, grid, block, stream);
  else
    launch<Type, kOneshotRanks>(call, two_shots, grid, block, stream);
}

}  // namespace

int64_t oneshot_bytes() {
  return 4 * kAreaBytes;
}

int64_t oneshot_epoch_bytes() {
  return kBlocks * sizeof(uint32_t);
}

int64_t oneshot_limit(int ranks, bool two_shots) {
  const int64_t slot = kAreaBytes / ranks / (kBlocks * kVectorBytes) * (kBlocks * kVectorBytes);
  // Shares are rounded up, so a vector a block is kept back.
  return (slot - kBlocks * kVectorBytes) * (two_shots ? ranks : 1);
}

void oneshot_prepare(uint8_t* memory, cudaStream_t stream) {
  fill_words(reinterpret_cast<uint32_t*>(memory), kWaiting, oneshot_bytes() / 4, stream);
}

void oneshot_all_reduce(const OneshotGroup& group, const void* in, void* out, int64_t count, OneshotType type,
                        bool two_shots, cudaStream_t stream) {
  if (count <= 0) return;
  Call call{};
  call.group = group;
  call.in = in;
  call.out = out;
  call.count = count;
  call.in_aligned = reinterpret_cast<uintptr_t>(in) % kVectorBytes == 0;
  call.out_aligned = reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0;
  switch (type) {
    case OneshotType::f32:
      return launch_for<Float32>(call, two_shots, stream);
    case OneshotType::bf16:
      return launch_for<Bfloat16>(call, two_shots, stream);
    case OneshotType::f16:
      return launch_for<Float16>(call, two_shots, stream);
  }
}

}  // namespace lamina

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/oneshot.hpp"
#include "kernels/cuda/peer_memory.cuh"
#include "kernels/cuda/probes.hpp"

namespace lamina {
namespace {

constexpr int kBlocks =
    128;  // all of them run at once: one that waited for another's place might wait for ever
constexpr int kVectorBytes = 16;
// Beside another stream's work: a matrix product of 128 tiles, a wave's, leaves four of 132 multiprocessors
// idle, and with fewer than 128 left it would take twice as long.
constexpr int kBlocksBeside = 4, kThreadsBeside = 1024;
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
  int blocks;       // that a part falls into
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

// Vectors that a thread has on their way at once: as many as there are registers for.
template <int kMost, int kThreads>
constexpr int kUnroll = kMost <= 2 && kThreads <= 512                   ? 4
                        : kMost <= 2 || (kMost <= 4 && kThreads <= 512) ? 2
                                                                        : 1;

// What a block of threads does for one of the message's blocks; few do several.
template <class Type, int kMost>
struct Turn {
  const Call& call;
  int64_t first, mine;  // vectors, of a part
  Place place;

  __device__ Turn(const Call& call_, int block, uint32_t epoch)
      : call(call_),
        first(block * call_.share),
        mine(min(call_.share, call_.part - first)),
        place{(epoch & 1) * 2 * kAreaBytes, call_.slot_bytes, block * call_.block_bytes} {}

  __device__ Vector load(int64_t vector) const {
    return plain_zeros(load_vector<Type>(call.in, vector, call.count, call.in_aligned));
  }
  __device__ void store(int64_t vector, const Vector& v) const {
    store_vector<Type>(call.out, vector, call.count, call.out_aligned, v);
  }
  __device__ uint8_t* own_memory() const { return call.group.memory[call.group.rank]; }
  __device__ void expect(int64_t i, Vector* came) const {
#pragma unroll
    for (int r = 0; r < kMost; ++r)
      if (r < call.group.ranks && r != call.group.rank) came[r] = peek(own_memory() + place(r, i));
  }
  // The sum over ranks of what they sent for vector i, with this rank's own, in rank order.
  __device__ Vector sum(int64_t i, const Vector& own, const Vector* came) const {
    float sums[Type::kNumbers];
#pragma unroll
    for (int r = 0; r < kMost; ++r) {
      if (r >= call.group.ranks) break;
      const Vector v = r == call.group.rank ? own : take(own_memory() + place(r, i), came[r]);
      float numbers[Type::kNumbers];
      Type::widen(v, numbers);
#pragma unroll
      for (int n = 0; n < Type::kNumbers; ++n) sums[n] = r == 0 ? numbers[n] : sums[n] + numbers[n];
    }
    return Type::narrow(sums);
  }
  // To every other rank, each rank beginning with another.
  __device__ void send(int64_t i, const Vector& v, bool sums) const {
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= call.group.ranks) break;
      const int peer = (call.group.rank + step) % call.group.ranks;
      push(call.group.memory[peer] + place(call.group.rank, i, sums), v);
    }
  }
};

// Calls work(turn) for this block's turns, and has their epochs advanced after the last of several rounds.
template <class Type, int kMost>
struct Turns {
  const Call& call;
  uint32_t epoch;  // of the first
  __device__ explicit Turns(const Call& call_) : call(call_), epoch(call_.group.epochs[blockIdx.x]) {}
  template <class Work>
  __device__ void each(const Work& work) const {
    for (int block = static_cast<int>(blockIdx.x); block < call.blocks; block += static_cast<int>(gridDim.x))
      work(Turn<Type, kMost>(call, block,
                             block == static_cast<int>(blockIdx.x) ? epoch : call.group.epochs[block]));
  }
  __device__ void end() const {
    __syncthreads();  // all have read the epochs
    const int block = static_cast<int>(blockIdx.x + threadIdx.x * gridDim.x);
    if (block < call.blocks) ++call.group.epochs[block];
  }
};

// Each thread sends its vectors to every rank, then adds up what it got at the same places.
template <class Type, int kMost, int kThreads>
__global__ void __launch_bounds__(kThreads) one_shot_kernel(const __grid_constant__ Call call) {
  begin_after_previous();
  constexpr int kWide = kUnroll<kMost, kThreads>;
  const Turns<Type, kMost> turns(call);
  const int64_t step = blockDim.x;
  turns.each([&](const Turn<Type, kMost>& turn) {
    for (int64_t i = threadIdx.x; i < turn.mine; i += kWide * step) {
      Vector own[kWide];
#pragma unroll
      for (int u = 0; u < kWide; ++u)
        if (i + u * step < turn.mine) own[u] = turn.load(turn.first + i + u * step);
#pragma unroll
      for (int u = 0; u < kWide; ++u)
        if (i + u * step < turn.mine) turn.send(i + u * step, own[u], false);
    }
  });
  turns.each([&](const Turn<Type, kMost>& turn) {
    for (int64_t i = threadIdx.x; i < turn.mine; i += kWide * step) {
      Vector own[kWide], came[kWide][kMost];
#pragma unroll
      for (int u = 0; u < kWide; ++u)
        if (i + u * step < turn.mine) {
          turn.expect(i + u * step, came[u]);
          own[u] = turn.load(turn.first + i + u * step);
        }
#pragma unroll
      for (int u = 0; u < kWide; ++u)
        if (i + u * step < turn.mine)
          turn.store(turn.first + i + u * step, turn.sum(i + u * step, own[u], came[u]));
    }
  });
  turns.end();
}

// Each rank adds up a part of the message and sends the sums around.
template <class Type, int kMost, int kThreads>
__global__ void __launch_bounds__(kThreads) two_shot_kernel(const __grid_constant__ Call call) {
  begin_after_previous();
  const int rank = call.group.rank, ranks = call.group.ranks;
  const Turns<Type, kMost> turns(call);
  const auto each_vector = [&](const auto& work) {
    turns.each([&](const Turn<Type, kMost>& turn) {
      for (int64_t i = threadIdx.x; i < turn.mine; i += blockDim.x) work(turn, i);
    });
  };
  each_vector([&](const Turn<Type, kMost>& turn, int64_t i) {
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= ranks) break;
      const int peer = (rank + step) % ranks;
      const int64_t v = peer * call.part + turn.first + i;
      if (v < call.vectors) push(call.group.memory[peer] + turn.place(rank, i), turn.load(v));
    }
  });
  each_vector([&](const Turn<Type, kMost>& turn, int64_t i) {
    const int64_t v = rank * call.part + turn.first + i;
    if (v >= call.vectors) return;
    Vector came[kMost];
    turn.expect(i, came);
    const Vector sum = plain_zeros(turn.sum(i, turn.load(v), came));
    turn.send(i, sum, true);
    turn.store(v, sum);
  });
  each_vector([&](const Turn<Type, kMost>& turn, int64_t i) {
#pragma unroll
    for (int step = 1; step < kMost; ++step) {
      if (step >= ranks) break;
      const int peer = (rank + step) % ranks;
      const int64_t v = peer * call.part + turn.first + i;
      if (v >= call.vectors) continue;
      uint8_t* from = turn.own_memory() + turn.place(peer, i, true);
      turn.store(v, take(from, peek(from)));
    }
  });
  turns.end();
}

template <class Type, int kMost>
void launch(const Call& call, bool two_shots, bool beside, unsigned threads, cudaStream_t stream) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = static_cast<unsigned>(beside ? std::min(call.blocks, kBlocksBeside) : call.blocks);
  config.blockDim = beside ? kThreadsBeside : threads;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = cuda_properties().capability >= 90 ? 1 : 0;
  auto* kernel = two_shots ? two_shot_kernel<Type, kMost, 512> : one_shot_kernel<Type, kMost, 512>;
  if (beside)
    kernel = two_shots ? two_shot_kernel<Type, kMost, kThreadsBeside>
                       : one_shot_kernel<Type, kMost, kThreadsBeside>;
  cudaLaunchKernelEx(&config, kernel, call);
}

int64_t slot_bytes(int ranks) {
  return kAreaBytes / ranks / (kBlocks * kVectorBytes) * (kBlocks * kVectorBytes);
}

template <class Type>
void launch_for(Call call, bool two_shots, bool beside, cudaStream_t stream) {
  call.vectors = (call.count + Type::kNumbers - 1) / Type::kNumbers;
  const int ranks = call.group.ranks;
  call.part = two_shots ? (call.vectors + ranks - 1) / ranks : call.vectors;
  call.slot_bytes = slot_bytes(ranks);
  call.block_bytes = call.slot_bytes / kBlocks;
  // Many small blocks of threads while each has a vector a thread: they spread over the multiprocessors.
  const int64_t threads = call.part <= int64_t{kBlocks} * 128   ? 128
                          : call.part <= int64_t{kBlocks} * 256 ? 256
                                                                : 512;
  call.blocks = static_cast<int>(std::min<int64_t>((call.part + threads - 1) / threads, kBlocks));
  call.share = (call.part + call.blocks - 1) / call.blocks;
  if (call.share * kVectorBytes > call.block_bytes)
    throw std::logic_error("oneshot_all_reduce: a message over oneshot_limit()");
  const auto block = static_cast<unsigned>(threads);
  if (ranks <= 2)
    launch<Type, 2>(call, two_shots, beside, block, stream);
  else if (ranks <= 4)
    launch<Type, 4>(call, two_shots, beside, block, stream);
  else
    launch<Type, kOneshotRanks>(call, two_shots, beside, block, stream);
}

}  // namespace

int64_t oneshot_bytes() {
  return 4 * kAreaBytes;
}

int64_t oneshot_epoch_bytes() {
  return kBlocks * sizeof(uint32_t);
}

int64_t oneshot_limit(int ranks, bool two_shots) {
  // Shares are rounded up, so a vector a block is kept back.
  return (slot_bytes(ranks) - kBlocks * kVectorBytes) * (two_shots ? ranks : 1);
}

void oneshot_prepare(uint8_t* memory, cudaStream_t stream) {
  fill_words(reinterpret_cast<uint32_t*>(memory), kWaiting, oneshot_bytes() / 4, stream);
}

void oneshot_all_reduce(const OneshotGroup& group, const void* in, void* out, int64_t count, OneshotType type,
                        bool two_shots, bool beside, cudaStream_t stream) {
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
      return launch_for<Float32>(call, two_shots, beside, stream);
    case OneshotType::bf16:
      return launch_for<Bfloat16>(call, two_shots, beside, stream);
    case OneshotType::f16:
      return launch_for<Float16>(call, two_shots, beside, stream);
  }
}

}  // namespace lamina

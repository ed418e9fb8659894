// All-reduce within a node by kernels that store into one another's memory, for messages so short that NCCL's
// own steps would take longer than the data. docs/collectives.md has the algorithm and its memory ordering.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

inline constexpr int kOneshotRanks = 8;  // at most

// What numbers are. Sums are formed in float32, in rank order, and rounded once: the same bits on every rank.
enum class OneshotType { f32, bf16, f16 };

// Each rank's memory for others to store into, as this process sees it: its own, and the others' opened from
// their handles.
struct OneshotGroup {
  int rank = 0, ranks = 1;
  uint8_t* memory[kOneshotRanks] = {};  // oneshot_bytes() each, prepared by oneshot_prepare()
  uint32_t* epochs = nullptr;           // this rank's own, oneshot_epoch_bytes() of zeros
};
int64_t oneshot_bytes();
int64_t oneshot_epoch_bytes();
// The largest message that one call takes: each rank's whole to each other (one shot), or in parts (two).
int64_t oneshot_limit(int ranks, bool two_shots);

// Before the first call: on a rank's own memory, and then a barrier.
void oneshot_prepare(uint8_t* memory, cudaStream_t stream);

// Sums [count] over ranks: `out` may be `in`. Every rank makes the same calls in one order, each on a stream
// that runs them in that order. Puts one launch on the stream, which may be captured; check_launch() follows.
void oneshot_all_reduce(const OneshotGroup& group, const void* in, void* out, int64_t count, OneshotType type,
                        bool two_shots, cudaStream_t stream);

}  // namespace lamina

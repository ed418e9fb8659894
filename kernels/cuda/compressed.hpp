// All-reduce within a node whose messages travel as codes with block scales: each rank's numbers are
// quantized straight into the memory of the rank that adds them up, and the sums into everyone's.
// docs/collectives.md has the algorithm.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/oneshot.hpp"

namespace lamina {

// int8: ±127; fp8: e4m3, ±448; int4: ±7. Each block of numbers has a float32 scale, its largest magnitude
// over that.
enum class PayloadCode { int8, fp8, int4 };

struct CompressedCall {
  OneshotGroup
      group;  // memory of compressed_bytes() each, zeros at first; epochs compressed_epoch_bytes(), zeros
  PayloadCode code = PayloadCode::int8;
  int block = 128;  // numbers that share a scale: 32, 64, 128 or 256
  const void* in = nullptr;
  void* out = nullptr;  // may be `in`
  int64_t count = 0;
  OneshotType type = OneshotType::f32;
  // Of error feedback, [count]: what was lost last time is added, and what is lost now is left there. Null:
  // none.
  float* residual = nullptr;
};
int64_t compressed_bytes();
int64_t compressed_epoch_bytes();
// Numbers that one call takes; more go in several.
int64_t compressed_limit(int ranks);

// As oneshot_all_reduce(): the same calls in one order on every rank, one launch, capturable.
void compressed_all_reduce(const CompressedCall& call, cudaStream_t stream);

}  // namespace lamina

// Products of packed weights (decode.hpp) for more than a few tokens, by Hopper's warpgroup instructions:
// codes are widened in registers and meet activations that lie in shared memory. docs/gpu-kernels.md has the
// layout and what limits it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/decode.hpp"

namespace lamina {

// Whether this GPU has them and the program was built for it (90a).
bool prefill_usable();

struct PrefillArguments {
  const void* weights = nullptr;        // packed
  const float* row_scales = nullptr;    // as of DecodeArguments
  const void* x = nullptr;              // [tokens × cols] bfloat16
  const float* input_scales = nullptr;  // null, or [cols]: x is divided by them and rounded again
  const float* token_scales = nullptr;  // as of DecodeArguments
  void* arranged = nullptr;             // scratch, prefill_x_bytes() of at least as many tokens
  float* y = nullptr;                   // [tokens × rows]
  float* partials = nullptr;            // prefill_partial_bytes(), likewise
  unsigned* counters = nullptr;         // prefill_counters(), likewise: zeros, which every call leaves zero
  int64_t tokens = 0;
  int multiprocessors = 0;  // to take at most; 0: all
};
int64_t prefill_x_bytes(DecodeFormat format, const DecodeLayout& layout, int64_t tokens);
int64_t prefill_partial_bytes(DecodeFormat format, int64_t tokens);
int64_t prefill_counters(DecodeFormat format, const DecodeLayout& layout, int64_t tokens);
// Two launches: activations are arranged as the products read them, then multiplied.
void prefill(DecodeFormat format, const DecodeLayout& layout, const PrefillArguments& arguments,
             cudaStream_t stream);

}  // namespace lamina

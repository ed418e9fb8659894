// The product of dense bfloat16 weights, row-major as they are, by one token: by vector arithmetic, bound by
// the bytes of the weights.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

struct GemvArguments {
  const void* weights = nullptr;  // [rows × cols] bfloat16, aligned to 16 bytes; cols a multiple of 8
  const void* x = nullptr;        // [cols] bfloat16, likewise
  float* y = nullptr;             // [rows]
  void* rounded = nullptr;        // null, or y once more by the bf16 rule, [rows]
  int64_t rows = 0, cols = 0;
};
// One launch; check_launch() follows.
void gemv(const GemvArguments& arguments, cudaStream_t stream);

}  // namespace lamina

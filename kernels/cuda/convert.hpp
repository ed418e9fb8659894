// Kernels that change what numbers are stored as. Each puts one launch on the stream; check_launch() follows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

// to[i] = bfloat16, or float16, of from[i] by the activation rule (activations.hpp).
void round_activations(const float* from, int64_t count, bool half, void* to, cudaStream_t stream);

void widen_f64(const float* from, int64_t count, double* to, cudaStream_t stream);
// Back to float32: to[i] = from[i], bfloat16.
void widen_bf16(const void* from, int64_t count, float* to, cudaStream_t stream);

// The upper halves of float32 that are bfloat16 already, or numbers of 1 or 2 bytes: [rows × cols] into
// [rows × stride], zeros beyond cols.
void narrow_bf16(const float* from, int64_t rows, int64_t cols, int64_t stride, void* to,
                 cudaStream_t stream);
void pad_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, int64_t element_bytes, void* to,
              cudaStream_t stream);

// The int8 activation rule on bfloat16 x [tokens × cols]: codes [tokens × stride], zeros beyond cols, and a
// scale a token.
void quantize_int8(const void* x, int64_t tokens, int64_t cols, int64_t stride, int8_t* codes, float* scales,
                   cudaStream_t stream);
// The fp8 rule, likewise: e4m3 codes.
void quantize_fp8(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes, float* scales,
                  cudaStream_t stream);
// y[t][i] = sums[t][i] · scales[i] · token_scales[t]; sums [tokens × stride], y [tokens × y_stride].
void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream);
// The same of float32 sums; null scales are ones.
void scale_float(const float* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream);

}  // namespace lamina

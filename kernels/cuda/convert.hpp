// Kernels that change what numbers are stored as. Each puts one launch on the stream; check_launch() follows.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

// to[i] = bfloat16, or float16, of from[i] by the activation rule (activations.hpp).
void round_activations(const float* from, int64_t count, bool half, void* to, cudaStream_t stream);

// Back to float32: to[i] = from[i], bfloat16.
void widen_bf16(const void* from, int64_t count, float* to, cudaStream_t stream);

// The upper halves of float32 that are bfloat16 already, or numbers of 1 or 2 bytes: [rows × cols] into
// [rows × stride], zeros beyond cols.
void narrow_bf16(const float* from, int64_t rows, int64_t cols, int64_t stride, void* to,
                 cudaStream_t stream);
void pad_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, int64_t element_bytes, void* to,
              cudaStream_t stream);

// bfloat16 [rows × cols] over input_scales [cols], rounded again, into [rows × stride], zeros beyond cols.
void divide_rows(const void* from, int64_t rows, int64_t cols, int64_t stride, const float* input_scales,
                 void* to, cudaStream_t stream);
// y += x.
void add_floats(const float* x, int64_t count, float* y, cudaStream_t stream);

// What comes with activations' codes: x is divided by input_scales [cols] before, and the sums of a token's
// codes are left in code_sums [tokens], where these are not null.
struct QuantizeExtras {
  const float* input_scales = nullptr;
  int32_t* code_sums = nullptr;
};
// The int8 activation rule on bfloat16 x [tokens × cols]: codes [tokens × stride], zeros beyond cols, and a
// scale a token.
void quantize_int8(const void* x, int64_t tokens, int64_t cols, int64_t stride, int8_t* codes, float* scales,
                   cudaStream_t stream, const QuantizeExtras& extras = {});
// The same with codes as bfloat16 numbers, which hold them exactly.
void quantize_int8_bf16(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes,
                        float* scales, cudaStream_t stream, const QuantizeExtras& extras = {});
// The fp8 rule, likewise: e4m3 codes. No sums of them.
void quantize_fp8(const void* x, int64_t tokens, int64_t cols, int64_t stride, void* codes, float* scales,
                  cudaStream_t stream, const QuantizeExtras& extras = {});

// Weights' zero points, one a row, and the sums of each token's codes: null where there are none.
struct ZeroPoints {
  const int32_t* rows = nullptr;
  const int32_t* code_sums = nullptr;
};
// y[t][i] = (sums[t][i] − zeros.rows[i]·zeros.code_sums[t]) · scales[i] · token_scales[t]; sums
// [tokens × stride], y [tokens × y_stride].
void scale_int32(const int32_t* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream,
                 const ZeroPoints& zeros = {});
// The same of float32 sums, without zero points; null scales are ones.
void scale_float(const float* sums, int64_t tokens, int64_t rows, int64_t stride, const float* scales,
                 const float* token_scales, float* y, int64_t y_stride, cudaStream_t stream);

}  // namespace lamina

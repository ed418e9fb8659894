// The inner loops of the CPU kernels, once per instruction set, behind one table of functions.
//
// Sizes along K are padded with zeros by the caller to what each function asks for, so that no loop has a
// tail. Vectors are "kF" floats long: 4 (portable), 8 (avx2) or 16 (avx512).
#pragma once

#include <cstdint>
#include <vector>

namespace lamina {

struct CpuOps {
  const char* name;  // "portable", "avx2", "avx512"

  // y[t·y_stride + r] (+)= Σ_k x[t·x_stride + k] · w[r·w_stride + k] for `rows` × `tokens`; k a multiple
  // of 32.
  void (*dot_f32)(const float* w, int64_t w_stride, int64_t rows, const float* x, int64_t x_stride,
                  int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate);

  // The same with int8 weights and int8 activations widened to int16, exact while k ≤ 65536; k a multiple
  // of 32.
  void (*dot_i8)(const int8_t* w, int64_t w_stride, int64_t rows, const int16_t* x, int64_t x_stride,
                 int64_t tokens, int64_t k, int32_t* y, int64_t y_stride, bool accumulate);

  // Σ over groups of scales[r·scale_stride + g] · (exact Σ of w·x over the group); w in ±128, x in ±127;
  // k a multiple of the group, groups of 32, 64 or 128.
  void (*dot_i16_grouped)(const int16_t* w, int64_t w_stride, const float* scales, int64_t scale_stride,
                          int64_t group, int64_t rows, const int16_t* x, int64_t x_stride, int64_t tokens,
                          int64_t k, float* y, int64_t y_stride, bool accumulate);

  // 4-bit codes lie in blocks of `int4_block` columns, 4 bits each, two's complement. For float32 activations
  // a block is kF words of 32 bits: column s·kF + j is nibble s of word j. For int8 activations it is 2·kF
  // words of 16 bits: column s·2kF + j is nibble s of word j. k is a multiple of int4_block; scales cover k.
  int64_t int4_block;
  int64_t int4_f32_lanes;
  int64_t int4_i16_lanes;
  // y[r] = Σ_g scale · Σ code · x of one token.
  void (*dot_int4_f32)(const uint8_t* codes, int64_t row_bytes, const float* scales, int64_t scale_stride,
                       int64_t group, int64_t rows, const float* x, int64_t k, float* y);
  void (*dot_int4_i16)(const uint8_t* codes, int64_t row_bytes, const float* scales, int64_t scale_stride,
                       int64_t group, int64_t rows, const int16_t* x, int64_t k, float* y);
  // out[k] = scale · code, and out[k] = code, of one row.
  void (*expand_int4_f32)(const uint8_t* codes, const float* scales, int64_t group, int64_t k, float* out);
  void (*expand_int4_i16)(const uint8_t* codes, int64_t k, int16_t* out);

  // Rows of pruned weights: bit k of a row's `bits` (k / 64 words a row) tells whether column k is kept, the
  // kept values follow one another from values[starts[r]]. k a multiple of 64. Up to 16 floats past the last
  // value are read. y[r] = Σ w·x of one token.
  void (*dot_bitmap)(const float* values, const int64_t* starts, const uint64_t* bits, int64_t rows,
                     const float* x, int64_t k, float* y);
  // out[k] of (a part of) one row; returns what follows its values.
  const float* (*expand_bitmap)(const float* values, const uint64_t* bits, int64_t k, float* out);

  // The activation rule over any `count`: int8 codes widened to int16, and their scale.
  void (*quantize)(const float* x, int64_t count, int16_t* codes, float* scale);

  // The machine's limits, for the ceilings. read_sum reads `count` floats (a multiple of 256) as wide as it
  // can; the others work in registers and return something that depends on all of it.
  float (*read_sum)(const float* data, int64_t count);
  double (*fma_f32)(int64_t iterations);
  double fma_f32_flops_per_iteration;
  // Multiply-adds of int8 (widened to int16) into int32, as dot_i8 does them.
  double (*int8_mac)(int64_t iterations);
  double int8_macs_per_iteration;
};

// The table in use: the widest the processor has, or the one that the environment's LAMINA_ISA names
// (portable, avx2, avx512). Throws std::runtime_error when it names one that is unknown or that the processor
// lacks.
const CpuOps& cpu_ops();
// Every table this processor can run, narrowest first.
std::vector<const CpuOps*> cpu_ops_available();
// Layers made from now on use `ops` (null: back to the choice above). For tests; not for use beside running
// threads.
void set_cpu_ops(const CpuOps* ops);

// One file each.
const CpuOps& portable_ops();
const CpuOps& avx2_ops();
const CpuOps& avx512_ops();

}  // namespace lamina

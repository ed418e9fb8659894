// The inner loops of the CPU kernels, once per instruction set, behind one table of functions.
//
// Sizes along K are padded with zeros by the caller to what each function asks for.
#pragma once

#include <cstdint>
#include <vector>

namespace lamina {

// Columns of activations that a word of a bitmap meets, and one of zeros.
inline constexpr int64_t kColumnsBitmap = 65;

struct CpuOps {
  const char* name;  // "portable", "avx2", "avx512", "avx512_vnni"

  // Weights of the panel functions lie in panels of `panel_rows` rows, column after column; `rows` of them
  // are there, from the first panel on. Activations lie in tiles of up to tokens_*: x[column · tokens +
  // token]. y[token · y_stride + row] is set, or added to.
  int64_t panel_rows;

  int64_t tokens_f32;
  // w[panel][column][row]: float32, bfloat16, or e4m3 bytes, whose products come out 2⁸ too small.
  using PanelFloat = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const float* x,
                              int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate);
  PanelFloat panel_f32, panel_b16, panel_e4m3;
  // 4-bit codes in two's complement: 8 columns of a row are 32 bits, the first column lowest; scales
  // [panel · scale_stride + group · panel_rows + row]. k a multiple of the group, which is one of 8.
  void (*panel_i4_f32)(const uint8_t* w, int64_t panel_bytes, const float* scales, int64_t scale_stride,
                       int64_t group, int64_t rows, const float* x, int64_t tokens, int64_t k, float* y,
                       int64_t y_stride, bool accumulate);

  // int8: `i8_columns` columns of a row lie together, and so many activations make a word of 32 bits: 4 int8
  // codes or 2 int16 ones. Weights are i8_bias too large; a token's start is −i8_bias · Σ codes (null: 0).
  // Exact while the result fits int32.
  int64_t tokens_i8, i8_columns;
  int32_t i8_bias;
  void (*panel_i8)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const int32_t* x,
                   const int32_t* start, int64_t tokens, int64_t k, int32_t* y, int64_t y_stride,
                   bool accumulate);
  // 4-bit codes plus 8, unsigned, by int8 activations, 4 a word: 8 columns of a row are 4 bytes, the first
  // four columns in their lower halves; scales as above. starts[group · tokens + token] = −8 · Σ codes of the
  // group. k a multiple of the group, which is one of 32.
  int64_t tokens_i4;
  void (*panel_i4_i8)(const uint8_t* w, int64_t panel_bytes, const float* scales, int64_t scale_stride,
                      int64_t group, int64_t rows, const int32_t* x, const int32_t* starts, int64_t tokens,
                      int64_t k, float* y, int64_t y_stride, bool accumulate);

  // 2:4 weights: panels of chunks of 32 columns, which are a word of 16 indices a row (the column of a group
  // of 4), then 16 weights a row, 4 bytes of each row together. k a multiple of 32. float32 or bfloat16:
  // index s at bit 2s of the word; x[(column / 4 · tokens + token) · 4 + column % 4].
  int64_t tokens_24;
  PanelFloat panel_24_f32, panel_24_b16;
  // The same of more tokens, in up to vectors_24 vectors of panel_rows: x[column · lanes + lane] where a lane
  // is a token; y[row · lanes + lane].
  int64_t vectors_24;
  using Rows24 = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const float* x,
                          int64_t vectors, int64_t k, float* y, bool accumulate);
  Rows24 rows_24_f32, rows_24_b16;
  // int8 as sign and magnitude: index s at bit 8 (s % 4) + 2 (s / 4); x[((column / 8 · tokens + token) · 2 +
  // 0) · 8 + column % 8], and + 1 the same negated. Exact while the result fits int32.
  int64_t tokens_24_i8;
  void (*panel_24_i8)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const int8_t* x, int64_t tokens,
                      int64_t k, int32_t* y, int64_t y_stride, bool accumulate);

  // y[t·y_stride + r] (+)= Σ_k x[t·x_stride + k] · w[r·w_stride + k] for `rows` × `tokens`, of weights that
  // lie row after row; k a multiple of 32.
  void (*dot_f32)(const float* w, int64_t w_stride, int64_t rows, const float* x, int64_t x_stride,
                  int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate);

  // Rows of pruned weights: bit k of a row's `bits` (k / 64 words a row) tells whether column k is kept, the
  // kept values follow one another from values[starts[r]]. k a multiple of 64. Up to 16 floats past the last
  // value are read. y[t·y_stride + r] = Σ_k x[t·x_stride + k] · w of up to tokens_bitmap tokens.
  int64_t tokens_bitmap;
  void (*dot_bitmap)(const float* values, const int64_t* starts, const uint64_t* bits, int64_t rows,
                     const float* x, int64_t x_stride, int64_t tokens, int64_t k, float* y, int64_t y_stride);
  // The same of more tokens, in up to vectors_24 vectors of panel_rows, and of a few words of columns: row
  // r's bits are at bits[r · bits_stride], its values at values[r], which is moved on. x[word][column][lane]
  // where a lane is a token and the last of a word's kColumnsBitmap columns is 0; y[row · lanes + lane] is
  // set, or added to.
  void (*rows_bitmap)(const float** values, const uint64_t* bits, int64_t bits_stride, int64_t rows,
                      const float* x, int64_t vectors, int64_t words, float* y, bool accumulate);

  // The activation rule over any `count`: int8 codes, and their scale.
  void (*quantize)(const float* x, int64_t count, int8_t* codes, float* scale);
  // Σ over each 32 codes; count a multiple of 32.
  void (*sum_codes)(const int8_t* codes, int64_t count, int32_t* sums);

  // The machine's limits, for the ceilings. read_sum reads `count` floats (a multiple of 256) as wide as it
  // can; the others work in registers and return something that depends on all of it.
  float (*read_sum)(const float* data, int64_t count);
  double (*fma_f32)(int64_t iterations);
  double fma_f32_flops_per_iteration;
  // Multiply-adds of int8 into int32, as panel_i8 does them.
  double (*int8_mac)(int64_t iterations);
  double int8_macs_per_iteration;
};

// The table in use: the widest the processor has, or the one that the environment's LAMINA_ISA names
// (portable, avx2, avx512, avx512_vnni). Throws std::runtime_error when it names one that is unknown or that
// the processor lacks.
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
const CpuOps& avx512_vnni_ops();

}  // namespace lamina

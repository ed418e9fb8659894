// The inner loops of the CPU kernels, once per instruction set, behind one table of functions.
//
// The isa_*.cpp that include this must not emit functions of it: the linker keeps one of each, perhaps one of
// instructions that the processor lacks. So there are aggregates here without constructors, arrays of the
// language's own, and inline functions only for the others. scripts/check_isa.sh holds them to it.
//
// Sizes along K are padded with zeros by the caller to what each function asks for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/arithmetic.hpp"

namespace lamina {

// How many tokens meet a weight while it is in a register: up to `alone` where they are all that there are,
// so that weights pass once; else tiles of up to `most`.
struct TokenTiles {
  int64_t most = 1, alone = 1;
};

// Columns of activations that a word of a bitmap meets, and one of zeros.
inline constexpr int64_t kColumnsBitmap = 65;
// Words of a row that meet many tokens in one call.
inline constexpr int64_t kMostWordsBitmap = 32;

// A strip of kept blocks that one token meets, as block_f32 has them: y[row] is set.
struct Strip {
  const float* weights;
  const int32_t* columns;
  int64_t count, rows;
  float* y;
};
// So many go together.
inline constexpr int64_t kStripsTogether = 4;

// Weights whose turn comes later: of each panel so many bytes from `at` on, which a panel function fetches
// into the second-level cache, evenly over its work. They may lie past the end of all. Of none (null) it
// fetches its own, ahead of itself, where that pays.
struct Ahead {
  const uint8_t* at;
  int64_t panel_bytes, bytes;
};

struct CpuOps {
  // "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"
  const char* name;

  // Weights of the panel functions lie in panels of `panel_rows` rows, column after column; `rows` of them
  // are there, from the first panel on. Activations lie in tiles of up to tokens_*: x[column · tokens +
  // token]. y[token · y_stride + row] is set, or added to.
  int64_t panel_rows;

  TokenTiles tokens_f32;
  // w[panel][column][row]: float32; w[panel][pair of columns][row][2]: bfloat16, k even;
  // w[panel][word of e4m3_columns][row][e4m3_columns]: e4m3 bytes, k whole words, whose products come out
  // multiplied by e4m3_unit.
  using PanelFloat = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const float* x,
                              int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate,
                              Ahead ahead);
  PanelFloat panel_f32, panel_b16, panel_e4m3;
  int64_t e4m3_columns;
  float e4m3_unit;  // small enough for products to be subnormal, unless activations are scaled up
  // 4-bit codes in two's complement: 8 columns of a row are 32 bits, the first column lowest; scales
  // [panel · scale_stride + group · panel_rows + row]. k a multiple of the group, which is one of 8.
  void (*panel_i4_f32)(const uint8_t* w, int64_t panel_bytes, const float* scales, int64_t scale_stride,
                       int64_t group, int64_t rows, const float* x, int64_t tokens, int64_t k, float* y,
                       int64_t y_stride, bool accumulate);
  // k columns of one panel as panel_f32 reads them, for many tokens to share: e4m3 multiplied by e4m3_unit;
  // of bfloat16 null where that is of no use.
  void (*widen_e4m3)(const uint8_t* w, int64_t k, float* out);
  void (*widen_b16)(const uint8_t* w, int64_t k, float* out);
  void (*widen_i4_f32)(const uint8_t* w, const float* scales, int64_t group, int64_t k, float* out);
  // `count` blocks of `width` columns, the first of each in `columns`, of a strip of panel_rows or twice as
  // many rows: w[block][column][row], of which `rows` are stored. With each column, several tokens also fetch
  // as many bytes from `fetch` into the second-level cache, which then moves on by fetch_step; it may point
  // past the weights.
  void (*block_f32)(const float* w, int64_t strip_rows, int64_t rows, const int32_t* columns, int64_t count,
                    int64_t width, const float* x, int64_t tokens, float* y, int64_t y_stride,
                    bool accumulate, const void* fetch, int64_t fetch_step);
  // `count` strips by one token, kStripsTogether at a time: neighbours here had better lie far apart.
  void (*strips_f32)(const Strip* strips, int64_t count, int64_t strip_rows, int64_t width, const float* x);

  // Where both sides are of less than 32 bits, activations lie in words of 32 bits, `words_together` of a
  // token side by side: word i of token t is x[(i / together · tokens + t) · together + i % together]. k is a
  // multiple of so many words.
  int64_t words_together;

  // int8: `i8_columns` columns of a row lie together, and so many activations make a word: 4 int8 codes or 2
  // int16 ones. Weights are i8_bias too large; a token's start is −i8_bias · Σ codes (null: 0). Exact while
  // the result fits int32.
  TokenTiles tokens_i8;
  int64_t i8_columns;
  int32_t i8_bias;
  using PanelI8 = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const int32_t* x,
                           const int32_t* start, int64_t tokens, int64_t k, int32_t* y, int64_t y_stride,
                           bool accumulate, Ahead ahead);
  PanelI8 panel_i8;
  // The same of codes that were widened, wide_i8_bytes each, for many tokens to share: k columns of one
  // panel. Null where codes are multiplied as they lie.
  int64_t wide_i8_bytes;
  void (*widen_i8)(const uint8_t* w, int64_t k, uint8_t* out);
  PanelI8 panel_wide_i8;
  // bfloat16 by bfloat16, weights as panel_b16 has them, 2 activations a word. Null where no instruction
  // multiplies them; subnormal factors and sums may count as zeros.
  TokenTiles tokens_b16;
  void (*panel_b16_b16)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const uint32_t* x,
                        int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate);
  // What a thread calls after its last panel, unless null: gives back registers that are set up for them.
  void (*end_panels)();

  // 4-bit codes plus 8, unsigned, by int8 activations, 4 a word: 8 columns of a row are 4 bytes, the first
  // four columns in their lower halves; scales as above. starts[group · tokens + token] = −8 · Σ codes of the
  // group. k a multiple of the group, which is one of 32.
  TokenTiles tokens_i4;
  using PanelI4 = void (*)(const uint8_t* w, int64_t panel_bytes, const float* scales, int64_t scale_stride,
                           int64_t group, int64_t rows, const int32_t* x, const int32_t* starts,
                           int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate,
                           Ahead ahead);
  PanelI4 panel_i4_i8;
  // The same of codes that were widened to bytes. Null where that is of no use.
  void (*widen_i4)(const uint8_t* w, int64_t k, uint8_t* out);
  PanelI4 panel_wide_i4_i8;

  // 2:4 weights: panels of chunks of 32 columns, which are a word of 16 indices a row (the column of a group
  // of 4), then 16 weights a row, 4 bytes of each row together. k a multiple of 32. float32 or bfloat16:
  // index s at bit 2s of the word; x[(column / 4 · tokens + token) · 4 + column % 4].
  int64_t tokens_24;
  PanelFloat panel_24_f32, panel_24_b16;
  // The same of more tokens, from least_vectors_24 vectors of panel_rows on, in up to vectors_24 of them:
  // x[column · lanes + lane] where a lane is a token; y[row · lanes + lane].
  int64_t least_vectors_24, vectors_24;
  using Rows24 = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const float* x,
                          int64_t vectors, int64_t k, float* y, bool accumulate);
  Rows24 rows_24_f32, rows_24_b16;
  // int8 as sign and magnitude: index s at bit 8 (s % 4) + 2 (s / 4); x[((column / 8 · tokens + token) · 2 +
  // 0) · 8 + column % 8], and + 1 the same negated. Exact while the result fits int32.
  int64_t tokens_24_i8;
  using Panel24I8 = void (*)(const uint8_t* w, int64_t panel_bytes, int64_t rows, const int8_t* x,
                             int64_t tokens, int64_t k, int32_t* y, int64_t y_stride, bool accumulate,
                             Ahead ahead);
  Panel24I8 panel_24_i8;
  // The same of what many tokens share: k columns of one panel, wide_24_i8_bytes a row and chunk.
  int64_t wide_24_i8_bytes;
  void (*widen_24_i8)(const uint8_t* w, int64_t k, uint8_t* out);
  Panel24I8 panel_wide_24_i8;

  // y[t·y_stride + r] (+)= Σ_k x[t·x_stride + k] · w[r·w_stride + k] for `rows` × `tokens`, of weights that
  // lie row after row; k a multiple of 32.
  void (*dot_f32)(const float* w, int64_t w_stride, int64_t rows, const float* x, int64_t x_stride,
                  int64_t tokens, int64_t k, float* y, int64_t y_stride, bool accumulate);

  // Rows of pruned weights: bit k of a row's words tells whether column k is kept, the kept values follow one
  // another. Of a few `words` of columns: row r's bits are at bits[r · bits_stride], its values at values[r],
  // which is moved on. Up to 16 floats past the last value are read. y is set, or added to.
  // Up to tokens_bitmap tokens: x[(column / panel_rows · tokens + token) · panel_rows + column % panel_rows];
  // y[token · y_stride + row].
  int64_t tokens_bitmap;
  void (*spread_bitmap)(const float** values, const uint64_t* bits, int64_t bits_stride, int64_t rows,
                        const float* x, int64_t tokens, int64_t words, float* y, int64_t y_stride,
                        bool accumulate);
  // More tokens, in up to vectors_24 vectors of panel_rows, and up to kMostWordsBitmap words whose
  // activations are at most 64 KiB: x[word][column][lane] where a lane is a token and the last of a word's
  // kColumnsBitmap columns is 0; y[row · lanes + lane].
  void (*rows_bitmap)(const float** values, const uint64_t* bits, int64_t bits_stride, int64_t rows,
                      const float* x, int64_t vectors, int64_t words, float* y, bool accumulate);

  // Compressed sparse rows: row r has values and (16- or 32-bit) columns from starts[r] to starts[r + 1].
  // y[r] = Σ w·x of one token.
  void (*csr_dot_16)(const float* values, const uint16_t* columns, const int64_t* starts, int64_t rows,
                     const float* x, float* y);
  void (*csr_dot_32)(const float* values, const uint32_t* columns, const int64_t* starts, int64_t rows,
                     const float* x, float* y);
  // y[t] += Σ w · x[column · tokens + t] over one row's [begin, end), up to the first column that is not
  // below `limit`; returns how far it came. At most csr_tokens of them; whole vectors of x and y are read and
  // written.
  int64_t csr_tokens;
  int64_t (*csr_tile_16)(const float* values, const uint16_t* columns, int64_t begin, int64_t end,
                         int64_t limit, const float* x, int64_t tokens, float* y);
  int64_t (*csr_tile_32)(const float* values, const uint32_t* columns, int64_t begin, int64_t end,
                         int64_t limit, const float* x, int64_t tokens, float* y);

  // The activation rules over any `count`: int8 codes, and their scale; bfloat16.
  void (*quantize)(const float* x, int64_t count, int8_t* codes, float* scale);
  void (*round_b16)(const float* x, int64_t count, uint16_t* out);
  // Σ over each 32 codes; count a multiple of 32.
  void (*sum_codes)(const int8_t* codes, int64_t count, int32_t* sums);

  // The machine's limits, for the ceilings. read_sum reads `count` floats (a multiple of 256) as wide as it
  // can, by loads alone and with lines fetched ahead by instructions: which is faster, processors differ in.
  // The others work in registers and return something that depends on all of it.
  static constexpr int kReadForms = 2;
  float (*read_sum[kReadForms])(const float* data, int64_t count);
  // Multiply-adds of each kind, as the loops above do them; bfloat16 as float32 where no instruction
  // multiplies it.
  struct Probe {
    double (*run)(int64_t iterations) = nullptr;
    double operations = 0;  // of an iteration, 2 per multiply-add
  };
  Probe probes[kArithmetics.size()];
  const Probe& probe(Arithmetic kind) const { return probes[static_cast<size_t>(kind)]; }
};

// The table in use: the widest the processor has, or the one that the environment's LAMINA_ISA names
// (their `name`). Throws std::runtime_error when it names one that is unknown or that the processor lacks.
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
const CpuOps& avx512_bf16_ops();
const CpuOps& amx_ops();

}  // namespace lamina

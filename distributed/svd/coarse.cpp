#include "distributed/svd/coarse.hpp"

#include <algorithm>
#include <bit>
#include <string_view>

#include "distributed/compress.hpp"
#include "kernels/cpu/ops.hpp"
#include "kernels/wide.hpp"

namespace lamina::svd {
namespace {

constexpr int64_t kTogether = 32;  // rows of T that padding completes: 16 pairs, a tile's width
constexpr int64_t kMostTokens = 32;

// To bfloat16, ties to even, of a finite number; in the upper half.
inline uint32_t rounded(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
}

// The first number is the pair's lower half.
inline uint32_t pair_of(float first, float second) {
  return rounded(first) >> 16 | rounded(second);
}

LAMINA_WIDE void pair_lines(const float* first, const float* second, int64_t count, uint32_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = pair_of(first[i], second[i]);
}

LAMINA_WIDE void pair_neighbours(const float* from, int64_t pairs, uint32_t* to) {
  for (int64_t i = 0; i < pairs; ++i) to[i] = pair_of(from[2 * i], from[2 * i + 1]);
}

LAMINA_WIDE void transpose(const uint32_t* from, int64_t tokens, uint32_t* to) {
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < kTogether / 2; ++i) to[t * (kTogether / 2) + i] = from[i * kMostTokens + t];
  }
}

// 32 numbers that come next: they lie far from the others, where the processor does not look ahead. They may
// be past the matrix.
inline void fetch(const float* from) {
  __builtin_prefetch(from, 0, 2);
  __builtin_prefetch(from + 16, 0, 2);
}

// Tiles of 16 pairs of each token, one after the other; numbers past `depth` are 0.
void pack(const Lines& lines, int64_t tokens, int64_t depth, uint32_t* to) {
  constexpr int64_t kPairs = kTogether / 2;
  for (int64_t first = 0; first < depth; first += kTogether, to += kPairs * tokens) {
    const int64_t there = std::min(kTogether, depth - first);
    const float* from = lines.from + first * lines.column_step;
    if (there < kTogether) std::fill_n(to, kPairs * tokens, 0u);
    if (lines.column_step == 1) {
      for (int64_t t = 0; t < tokens; ++t) {
        const float* line = from + t * lines.token_step;
        fetch(line + kRowBlock);
        pair_neighbours(line, there / 2, to + t * kPairs);
        if (there % 2 != 0) to[t * kPairs + there / 2] = pair_of(line[there - 1], 0);
      }
      continue;
    }
    alignas(64) uint32_t words[kPairs * kMostTokens] = {};
    const float none[kMostTokens] = {};
    for (int64_t i = 0; 2 * i < there; ++i) {
      const float* line = from + 2 * i * lines.column_step;
      fetch(line + kMostTokens);
      fetch(line + lines.column_step + kMostTokens);
      pair_lines(line, 2 * i + 1 < there ? line + lines.column_step : none, tokens, words + i * kMostTokens);
    }
    transpose(words, tokens, to);
  }
}

}  // namespace

// AVX-512's own bfloat16 instructions have at most twice float32's rate.
bool coarse_is_fast() {
  const CpuOps& ops = cpu_ops();
  return std::string_view(ops.name) == "amx" && ops.panel_b16_b16 != nullptr && ops.words_together == 16 &&
         ops.tokens_b16.most == kMostTokens && ops.panel_rows == 16;
}

CoarseTall::CoarseTall(const Matrix<float>& tall, int threads)
    : padded_((tall.rows + kTogether - 1) / kTogether * kTogether), cols_(tall.cols) {
  const int64_t panels = (cols_ + 15) / 16, pairs = padded_ / 2;
  words_ = Buffer::untouched(panels * pairs * 16 * 4);
  auto* to = words_.as<uint32_t>();
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t row = 2 * i;
    for (int64_t panel = 0; panel < panels; ++panel) {
      uint32_t* words = to + (panel * pairs + i) * 16;
      const int64_t col = panel * 16, count = std::min<int64_t>(16, cols_ - col);
      const float none[16] = {};
      if (count < 16 || row >= tall.rows) std::fill_n(words, 16, 0u);
      if (row < tall.rows)
        pair_lines(tall.row(row) + col, row + 1 < tall.rows ? tall.row(row + 1) + col : none, count, words);
    }
  }
}

void CoarseTall::multiply(const Lines& lines, int64_t tokens, int64_t first, int64_t depth, Range columns,
                          float* y, bool add) const {
  const CpuOps& ops = cpu_ops();
  const int64_t padded = (depth + kTogether - 1) / kTogether * kTogether;
  alignas(64) uint32_t words[kMostTokens * kMostDepth / 2];
  const auto* weights = words_.as<const uint8_t>() + (columns.begin * padded_ + first * 16) * 2;
  for (int64_t token = 0; token < tokens; token += kMostTokens) {
    const int64_t some = std::min(kMostTokens, tokens - token);
    pack({lines.from + token * lines.token_step, lines.token_step, lines.column_step}, some, depth, words);
    ops.panel_b16_b16(weights, padded_ * 16 * 2, columns.size(), words, some, padded,
                      y + token * columns.size(), columns.size(), add);
  }
  if (ops.end_panels != nullptr) ops.end_panels();
}

}  // namespace lamina::svd

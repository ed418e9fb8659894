#include "kernels/cpu/cpu_layer.hpp"

#include <fmt/format.h>

#include <climits>
#include <cstring>

namespace lamina {

CpuLayer::CpuLayer(const Leaf& leaf, const LayerOptions& options, int64_t column_unit)
    : ops_(cpu_ops()),
      rows_(leaf.rows),
      cols_(leaf.cols),
      padded_(round_up(leaf.cols, column_unit)),
      max_tokens_(std::max<int64_t>(options.max_tokens, 1)),
      threads_(std::max(options.threads, 1)) {
  check_leaf(leaf);
  if (options.workspace != nullptr) options.workspace->rewind();
}

std::shared_ptr<Buffer> make_scratch(const LayerOptions& options, int64_t bytes, int threads) {
  return options.workspace != nullptr ? options.workspace->take(bytes, threads)
                                      : std::make_shared<Buffer>(bytes, threads);
}

void CpuLayer::forward(const float* x, float* y, int64_t tokens, Stream& stream) {
  // Workspaces are one a thread: no more threads than the layer was made for.
  const int threads = std::clamp(stream.threads, 1, threads_);
  if (threads == 1) {
    prepare(x, tokens, 0, 1);
    compute(x, y, tokens, {0, rows_}, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int part = omp_get_thread_num(), parts = omp_get_num_threads();
    prepare(x, tokens, part, parts);
#pragma omp barrier
    compute(x, y, tokens, deal_rows(rows_, row_unit_, part, parts), part);
  }
}

Cost CpuLayer::cost(int64_t tokens) const {
  const auto m = static_cast<double>(tokens);
  return {.operations = 2 * m * macs(),
          .integer = integer(),
          .read_bytes = static_cast<double>(weight_bytes_) + 4 * m * static_cast<double>(cols_),
          .write_bytes = 4 * m * static_cast<double>(rows_)};
}

PaddedActivations::PaddedActivations(int64_t cols, int64_t padded, const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      copy_(make_scratch(options,
                         cols == padded ? 0 : std::max<int64_t>(options.max_tokens, 1) * padded * 4)) {}

void PaddedActivations::prepare(const float* x, int64_t tokens, int part, int parts) {
  if (cols_ == padded_) return;
  // The padding was zero from the start and stays so.
  for (int64_t t = part; t < tokens; t += parts)
    std::memcpy(copy_->as<float>() + t * padded_, x + t * cols_, static_cast<size_t>(cols_) * 4);
}

TiledActivations::TiledActivations(int64_t cols, int64_t padded, int64_t most, const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      most_(most),
      data_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * padded * 4)) {}

void TiledActivations::prepare(const float* x, int64_t tokens, int part, int parts) {
  if (part == 0) as_they_are_ = tokens == 1 && cols_ == padded_;
  if (tokens == 1 && cols_ == padded_) return;
  const int64_t begin = padded_ * part / parts, end = padded_ * (part + 1) / parts;
  const int64_t tile = tile_tokens(tokens, most_);
  for (int64_t token = 0; token < tokens; token += tile) {
    const int64_t some = std::min(tile, tokens - token);
    float* out = data_->as<float>() + token * padded_;
    const float* in = x + token * cols_;
    for (int64_t i = begin; i < end; ++i)
      for (int64_t t = 0; t < some; ++t) out[i * some + t] = i < cols_ ? in[t * cols_ + i] : 0.0f;
  }
}

TiledCodes::TiledCodes(int64_t cols, int64_t padded, int64_t most, int64_t word, int64_t group, int32_t bias,
                       const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      most_(most),
      word_(word),
      group_(std::max<int64_t>(group, 1)),
      groups_((padded + group_ - 1) / group_),
      bias_(bias) {
  const int64_t tokens = std::max<int64_t>(options.max_tokens, 1), threads = std::max(options.threads, 1);
  words_ = make_scratch(options, tokens * padded / word * 4);
  starts_ = make_scratch(options, tokens * groups_ * 4);
  scales_ = make_scratch(options, tokens * 4);
  // Rows of whole cache lines, and zeros past the columns that stay.
  row_ = make_scratch(options, threads * round_up(padded, 64));
  sums_ = make_scratch(options, threads * round_up(padded, 64) / 32 * 4);
}

void TiledCodes::prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts) {
  // Whole tiles where there are enough: threads would write the same lines otherwise.
  const int64_t tile = tile_tokens(tokens, most_), unit = tokens >= tile * parts ? tile : 1;
  for (int64_t first = part * unit; first < tokens; first += parts * unit)
    for (int64_t token = first; token < std::min(first + unit, tokens); ++token)
      prepare_token(ops, x + token * cols_, tokens, token, part);
}

void TiledCodes::prepare_token(const CpuOps& ops, const float* x, int64_t tokens, int64_t token, int part) {
  const int64_t row_bytes = round_up(padded_, 64);
  auto* codes = row_->as<int8_t>() + part * row_bytes;
  ops.quantize(x, cols_, codes, scales_->as<float>() + token);
  const int64_t tile = tile_tokens(tokens, most_);
  const int64_t first = token / tile * tile, some = std::min(tile, tokens - first);
  int32_t* words = words_->as<int32_t>() + first * padded_ / word_ + (token - first);
  for (int64_t i = 0; i < padded_ / word_; ++i) {
    int32_t packed;
    if (word_ == 4) {
      std::memcpy(&packed, codes + 4 * i, 4);
    } else {
      const int16_t pair[2] = {codes[2 * i], codes[2 * i + 1]};
      std::memcpy(&packed, pair, 4);
    }
    words[i * some] = packed;
  }
  if (bias_ == 0) return;
  auto* sums = sums_->as<int32_t>() + part * row_bytes / 32;
  ops.sum_codes(codes, row_bytes, sums);
  int32_t* starts = starts_->as<int32_t>() + first * groups_ + (token - first);
  for (int64_t g = 0; g < groups_; ++g) {
    int32_t sum = 0;
    for (int64_t i = g * group_ / 32; i < ((g + 1) * group_ + 31) / 32; ++i) sum += sums[i];
    starts[g * some] = -bias_ * sum;
  }
}

std::string native_refusal(const Leaf& leaf) {
  if (!leaf.zero_points.empty()) return "takes no zero points";
  if (!leaf.input_scales.empty()) return "takes no input scales";
  if (leaf.rows > INT_MAX || leaf.cols > INT_MAX) return fmt::format("takes fewer than 2³¹ rows and columns");
  return {};
}

std::string kind_refusal(const Leaf& leaf, int bits, ActivationRule rule) {
  if (leaf.fp8 || leaf.bits == 16)
    return fmt::format("multiplies {}, not {}",
                       bits == 32 ? "float32 weights" : fmt::format("{}-bit codes", bits),
                       leaf.fp8 ? "fp8 weights" : "bfloat16 ones");
  if (leaf.bits != bits) {
    return bits == 32
               ? fmt::format("multiplies float32 weights, not {}-bit codes", leaf.bits)
               : fmt::format("multiplies {}-bit codes, not {}", bits,
                             leaf.bits == 32 ? "float32 weights" : fmt::format("{}-bit codes", leaf.bits));
  }
  if (leaf.activation != rule)
    return rule == ActivationRule::f32 ? "multiplies float32 activations, not int8"
                                       : "multiplies int8 activations, not float32";
  return {};
}

}  // namespace lamina

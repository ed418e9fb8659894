#include "kernels/cpu/cpu_layer.hpp"

#include <fmt/format.h>

#include <bit>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstring>
#include <functional>

#include "kernels/compress/rows.hpp"
#include "kernels/cpu/slowdown.hpp"

namespace lamina {

CpuLayer::CpuLayer(const Leaf& leaf, const LayerOptions& options, int64_t column_unit)
    : ops_(cpu_ops()),
      rows_(leaf.rows),
      cols_(leaf.cols),
      padded_(round_up(leaf.cols, column_unit)),
      max_tokens_(std::max<int64_t>(options.max_tokens, 1)),
      threads_(std::max(options.threads, 1)),
      input_scales_(leaf.input_scales) {
  check_leaf(leaf);
  if (options.workspace != nullptr) options.workspace->rewind();
  if (!input_scales_.empty()) divided_ = make_scratch(options, max_tokens_ * cols_ * 4);
}

std::shared_ptr<Buffer> make_scratch(const LayerOptions& options, int64_t bytes, int threads) {
  return options.workspace != nullptr ? options.workspace->take(bytes, threads)
                                      : std::make_shared<Buffer>(bytes, threads);
}

template <class Work>
void CpuLayer::lasting(int64_t tokens, const Work& work) {
  const double slowdown = injected_slowdown();
  slowdown > 0 ? slow_down(this, tokens, slowdown, std::cref(work)) : work();
}

void CpuLayer::forward(const float* x, float* y, int64_t tokens, Stream& stream) {
  if (tokens < 1) return;
  // Workspaces are one a thread: no more threads than the layer was made for.
  const int threads = std::clamp(stream.threads, 1, threads_);
  if (threads == 1) {
    lasting(tokens, [&] {
      x = divide(x, tokens, 0, 1);
      prepare(x, tokens, 0, 1);
      compute(x, y, tokens, {0, rows_}, 0);
      if (ops_.end_panels != nullptr) ops_.end_panels();
    });
    return;
  }
#pragma omp parallel num_threads(threads)
  share(x, y, tokens);
}

void CpuLayer::forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                            Stream& stream) {
  auto* second = dynamic_cast<CpuLayer*>(&next);
  const int threads =
      second == nullptr ? 1 : std::clamp(stream.threads, 1, std::min(threads_, second->threads_));
  if (threads == 1) return Layer::forward_then(next, x, middle, y, tokens, stream);
#pragma omp parallel num_threads(threads)
  {
    share(x, middle, tokens);
#pragma omp barrier
    second->share(middle, y, tokens);
  }
}

void CpuLayer::share(const float* x, float* y, int64_t tokens) {
  const int part = omp_get_thread_num(), parts = omp_get_num_threads();
  x = divide(x, tokens, part, parts);
  if (!input_scales_.empty()) {
#pragma omp barrier
  }
  prepare(x, tokens, part, parts);
#pragma omp barrier
  lasting(tokens, [&] { compute(x, y, tokens, deal_rows(rows_, row_unit_, part, parts), part); });
  if (ops_.end_panels != nullptr) ops_.end_panels();
}

const float* CpuLayer::divide(const float* x, int64_t tokens, int part, int parts) {
  if (input_scales_.empty()) return x;
  const int64_t begin = cols_ * part / parts, end = cols_ * (part + 1) / parts;
  float* out = divided_->as<float>();
  // The quotient as the activation rules state it: codes of it must agree with the reference's.
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = begin; k < end; ++k)
      out[t * cols_ + k] = x[t * cols_ + k] / input_scales_[static_cast<size_t>(k)];
  return out;
}

Cost CpuLayer::cost(int64_t tokens) const {
  const auto m = static_cast<double>(tokens);
  return {.operations = {arithmetic(), 2 * m * macs()},
          .read_bytes = static_cast<double>(weight_bytes()) + 4 * m * static_cast<double>(cols_),
          .write_bytes = 4 * m * static_cast<double>(rows_)};
}

namespace {

// Above it, sums of 4-bit codes times 2²⁸ might leave float32's range.
constexpr int kTameExponent = 64;
constexpr float kTame = 0x1p64f;

}  // namespace

TiledActivations::TiledActivations(int64_t cols, int64_t padded, TokenTiles tiles,
                                   const LayerOptions& options, const CpuOps* rounding)
    : cols_(cols),
      padded_(padded),
      tiles_(tiles),
      rounding_(rounding),
      data_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * padded * 4)) {}

void TiledActivations::scale_by(Scaling scaling, const LayerOptions& options) {
  const int64_t tokens = std::max<int64_t>(options.max_tokens, 1);
  scaling_ = scaling;
  scales_ = make_scratch(options, tokens * 4);
  largest_stride_ = round_up(tokens, 16);  // whole cache lines
  largest_ = make_scratch(options, std::max(options.threads, 1) * largest_stride_ * 4);
}

void TiledActivations::normalise(float unit, const LayerOptions& options) {
  scale_by(Scaling::normal, options);
  unit_exponent_ = std::ilogb(unit);
}

void TiledActivations::tame(const LayerOptions& options) {
  scale_by(Scaling::tame, options);
}

int TiledActivations::exponent_of(float largest) const {
  if (scaling_ == Scaling::tame) return largest >= kTame ? kTameExponent : 0;
  return largest > 0 ? std::max(std::ilogb(largest), FLT_MIN_EXP) : 0;
}

void TiledActivations::find_largest(const float* x, int64_t tokens, int64_t begin, int64_t end, int part,
                                    int parts) {
  const int64_t there = std::max<int64_t>(std::min(end, cols_) - begin, 0);
  float* own = largest_->as<float>() + part * largest_stride_;
  for (int64_t t = 0; t < tokens; ++t) own[t] = largest_magnitude(x + t * cols_ + begin, there);
  if (parts == 1) return;  // there may be no region of this layer's own
#pragma omp barrier
}

float TiledActivations::largest_of(int64_t token, int parts) const {
  float largest = 0;
  for (int part = 0; part < parts; ++part)
    largest = std::max(largest, largest_->as<float>()[part * largest_stride_ + token]);
  return largest;
}

void TiledActivations::prepare(const float* x, int64_t tokens, int part, int parts) {
  const int64_t begin = padded_ * part / parts, end = padded_ * (part + 1) / parts;
  const bool scales = scaling_ != Scaling::none;
  if (scales) find_largest(x, tokens, begin, end, part, parts);
  const auto power_of = [&](int64_t token) {
    return -unit_exponent_ - exponent_of(largest_of(token, parts));
  };
  const bool as_they_are =
      tokens == 1 && cols_ == padded_ && rounding_ == nullptr && (!scales || power_of(0) == 0);
  if (part == 0) {
    as_they_are_ = as_they_are;
    for (int64_t t = 0; scales && t < tokens; ++t)
      scales_->as<float>()[t] = std::ldexp(1.0f, exponent_of(largest_of(t, parts)));
  }
  if (as_they_are) return;
  if (rounding_ != nullptr) return prepare_rounded(x, tokens, begin, end);
  const int64_t tile = tile_tokens(tokens, tiles_);
  for (int64_t token = 0; token < tokens; token += tile) {
    const int64_t some = std::min(tile, tokens - token);
    float* out = data_->as<float>() + token * padded_;
    for (int64_t t = 0; t < some; ++t) {
      const float* in = x + (token + t) * cols_;
      const int power = scales ? power_of(token + t) : 0;
      // In two steps: one power may be too large for a float.
      const float up[2] = {std::ldexp(1.0f, power / 2), std::ldexp(1.0f, power - power / 2)};
      for (int64_t i = begin; i < std::min(end, cols_); ++i) out[i * some + t] = in[i] * up[0] * up[1];
      for (int64_t i = std::max(begin, cols_); i < end; ++i) out[i * some + t] = 0;
    }
  }
}

void TiledActivations::prepare_rounded(const float* x, int64_t tokens, int64_t begin, int64_t end) {
  constexpr int64_t kChunk = 64;
  const int64_t tile = tile_tokens(tokens, tiles_);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t first = token / tile * tile, some = std::min(tile, tokens - first);
    float* out = data_->as<float>() + first * padded_ + (token - first);
    for (int64_t col = begin; col < end; col += kChunk) {
      uint16_t rounded[kChunk] = {};
      const int64_t count = std::min(kChunk, end - col), there = std::min(count, cols_ - col);
      if (there > 0) rounding_->round_b16(x + token * cols_ + col, there, rounded);
      for (int64_t i = 0; i < count; ++i)
        out[(col + i) * some] = std::bit_cast<float>(static_cast<uint32_t>(rounded[i]) << 16);
    }
  }
}

namespace {

// Places the words of one token's row among its tile's.
void place_words(const void* row, int64_t words, int64_t together, int64_t tokens, int64_t token,
                 uint32_t* out) {
  const auto* from = static_cast<const uint32_t*>(row);
  out += token * together;
  if (together == 1) {
    for (int64_t i = 0; i < words; ++i) out[i * tokens] = from[i];
  } else {
    for (int64_t i = 0; i < words; i += 16) std::memcpy(out + i * tokens, from + i, 64);
  }
}

}  // namespace

TiledPairs::TiledPairs(int64_t cols, int64_t padded, TokenTiles tiles, int64_t together,
                       const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      together_(together),
      tiles_(tiles),
      words_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * padded * 2)) {}

void TiledPairs::prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts) {
  constexpr int64_t kChunk = 64;  // columns: whole cache lines of a token, whatever lies together
  const int64_t chunks = (padded_ + kChunk - 1) / kChunk, tile = tile_tokens(tokens, tiles_);
  const int64_t begin = chunks * part / parts * kChunk;
  const int64_t end = std::min(chunks * (part + 1) / parts * kChunk, padded_);
  for (int64_t first = 0; first < tokens; first += tile) {
    const int64_t some = std::min(tile, tokens - first);
    uint32_t* out = words_->as<uint32_t>() + first * padded_ / 2;
    for (int64_t col = begin; col < end; col += kChunk)
      for (int64_t t = 0; t < some; ++t) {
        alignas(64) uint16_t rounded[kChunk] = {};
        const int64_t there = std::min(kChunk, cols_ - col);
        if (there > 0) ops.round_b16(x + (first + t) * cols_ + col, there, rounded);
        place_words(rounded, std::min(kChunk, padded_ - col) / 2, together_, some, t, out + col / 2 * some);
      }
  }
}

TiledCodes::TiledCodes(int64_t cols, int64_t padded, TokenTiles tiles, int64_t word, int64_t together,
                       int64_t group, int32_t bias, const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      word_(word),
      together_(together),
      group_(std::max<int64_t>(group, 1)),
      groups_((padded + group_ - 1) / group_),
      bias_(bias),
      tiles_(tiles) {
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
  const int64_t tile = tile_tokens(tokens, tiles_), unit = tokens >= tile * parts ? tile : 1;
  for (int64_t first = part * unit; first < tokens; first += parts * unit)
    for (int64_t token = first; token < std::min(first + unit, tokens); ++token)
      prepare_token(ops, x + token * cols_, tokens, token, part);
}

void TiledCodes::prepare_token(const CpuOps& ops, const float* x, int64_t tokens, int64_t token, int part) {
  const int64_t row_bytes = round_up(padded_, 64);
  auto* codes = row_->as<int8_t>() + part * row_bytes;
  ops.quantize(x, cols_, codes, scales_->as<float>() + token);
  const int64_t tile = tile_tokens(tokens, tiles_);
  const int64_t first = token / tile * tile, some = std::min(tile, tokens - first);
  auto* words = words_->as<uint32_t>() + first * padded_ / word_;
  if (word_ == 4) {
    place_words(codes, padded_ / 4, together_, some, token - first, words);
  } else {
    for (int64_t i = 0; i < padded_ / 2; ++i) {
      const int16_t pair[2] = {codes[2 * i], codes[2 * i + 1]};
      std::memcpy(words + i * some + (token - first), pair, 4);
    }
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
  if (leaf.fp16) return "takes no float16 weights";
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
    return fmt::format("multiplies {} activations, not {}", name_of(rule), name_of(leaf.activation));
  return {};
}

}  // namespace lamina

#include "kernels/cpu/cpu_layer.hpp"

#include <fmt/format.h>
#include <omp.h>

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

Range CpuLayer::thread_rows(int part, int parts) const {
  const int64_t units = (rows_ + row_unit_ - 1) / row_unit_;
  return {std::min(units * part / parts * row_unit_, rows_),
          std::min(units * (part + 1) / parts * row_unit_, rows_)};
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
    compute(x, y, tokens, thread_rows(part, parts), part);
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

QuantizedActivations::QuantizedActivations(int64_t cols, int64_t padded, const LayerOptions& options)
    : cols_(cols),
      padded_(padded),
      codes_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * padded * 2)),
      scales_(make_scratch(options, std::max<int64_t>(options.max_tokens, 1) * 4)) {}

void QuantizedActivations::prepare(const CpuOps& ops, const float* x, int64_t tokens, int part, int parts) {
  for (int64_t t = part; t < tokens; t += parts)
    ops.quantize(x + t * cols_, cols_, codes_->as<int16_t>() + t * padded_, scales_->as<float>() + t);
}

std::string native_refusal(const Leaf& leaf) {
  if (!leaf.zero_points.empty()) return "takes no zero points";
  if (!leaf.input_scales.empty()) return "takes no input scales";
  if (leaf.rows > INT_MAX || leaf.cols > INT_MAX) return fmt::format("takes fewer than 2³¹ rows and columns");
  return {};
}

std::string kind_refusal(const Leaf& leaf, int bits, ActivationRule rule) {
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

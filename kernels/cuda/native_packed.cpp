// int8, fp8 and int4 weights, and 2:4 ones of these and bfloat16, by bfloat16 activations: decode.cu's
// products for few tokens, prefill.cu's for more. Of int4 the activations may be int8 codes too, which
// bfloat16 holds exactly.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/decode.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/prefill.hpp"

namespace lamina {
namespace {

// Up to so many, tokens that wait in registers are no slower than tokens in shared memory: as measured.
int64_t few_tokens(const Leaf& leaf) {
  return leaf.pattern.kind == PatternKind::n_of_m ? 16 : 32;
}

DecodeFormat format_of(const Leaf& leaf) {
  const bool sparse = leaf.pattern.kind == PatternKind::n_of_m;
  if (leaf.bits == 16) return DecodeFormat::bf16_24;
  if (leaf.bits == 8)
    return leaf.fp8 ? DecodeFormat::fp8 : sparse ? DecodeFormat::int8_24 : DecodeFormat::int8;
  if (!leaf.zero_points.empty())
    return leaf.group == 32   ? DecodeFormat::int4_g32_zero
           : leaf.group == 64 ? DecodeFormat::int4_g64_zero
                              : DecodeFormat::int4_g128_zero;
  switch (leaf.group) {
    case 32:
      return sparse ? DecodeFormat::int4_g32_24 : DecodeFormat::int4_g32;
    case 64:
      return sparse ? DecodeFormat::int4_g64_24 : DecodeFormat::int4_g64;
    default:
      return sparse ? DecodeFormat::int4_g128_24 : DecodeFormat::int4_g128;
  }
}

// Whether a row's sums stay finite in units of any of its groups' scales (prefill_multiply.cuh), which those
// of less than 2⁻⁹⁰ of the largest could spoil.
bool scales_are_near(const Leaf& leaf) {
  constexpr float kFar = 0x1p-90f;
  const int64_t groups = leaf.groups();
  bool near = true;
#pragma omp parallel for schedule(static) reduction(&& : near)
  for (int64_t row = 0; row < leaf.rows; ++row) {
    float least = std::numeric_limits<float>::infinity(), most = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = std::fabs(leaf.scales[static_cast<size_t>(row * groups + g)]);
      if (scale == 0) continue;
      least = std::min(least, scale);
      most = std::max(most, scale);
    }
    near = near && !(least < most * kFar);
  }
  return near;
}

class PackedLayer final : public CudaLayer {
 public:
  PackedLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16),
        format_(format_of(leaf)),
        layout_(decode_layout(format_, leaf.rows, leaf.cols)),
        most_few_(decode_tokens(format_, layout_)),
        few_tokens_(std::min(few_tokens(leaf), most_few_)),
        codes_activations_(leaf.bits == 4 && leaf.activation == ActivationRule::int8_per_token),
        work_share_(leaf.pattern.kind == PatternKind::n_of_m ? 0.5 : 1) {
    Device& device = *cuda_device();
    weights_ = device.allocate(layout_.bytes());
    const bool floats = leaf.bits == 16;
    Buffer codes, scales, zero_points;
    for (const int8_t zero : leaf.zero_points)
      if (zero < -8 || zero > 7)
        throw std::invalid_argument("int4 zero points: expected -8 to 7, found " + std::to_string(zero));
    if (floats) {
      codes = upload_bf16(leaf.values.data(), leaf.rows, leaf.cols);
    } else {
      codes = to_device(leaf.codes.data(), leaf.rows * leaf.cols);
      scales = to_device(leaf.scales.data(), static_cast<int64_t>(leaf.scales.size()) * 4);
      zero_points = to_device(leaf.zero_points.data(), static_cast<int64_t>(leaf.zero_points.size()));
    }
    if (!leaf.input_scales.empty()) input_scales_ = to_device(leaf.input_scales.data(), cols() * 4);
    Buffer too_many = device.allocate(4);
    device.fill(too_many.data(), 0, 4);
    decode_pack(format_, layout_, codes.data(), scales.as<float>(), zero_points.as<int8_t>(), weights_.data(),
                too_many.as<unsigned>(), cuda_stream(device.stream(1)));
    check_launch("packing weights");
    device.synchronize();
    unsigned refused = 0;
    device.download(&refused, too_many.data(), 4);
    if (refused != 0)
      throw std::invalid_argument("2:4 weights: expected at most 2 kept of every 4, found more");
    if (leaf.bits == 8) row_scales_ = std::move(scales);

    many_ = prefill_usable() && options.max_tokens > few_tokens_ && (leaf.bits != 4 || scales_are_near(leaf));
    const int64_t few = many_ ? few_tokens_ : std::min(options.max_tokens, most_few_);
    const int64_t most = options.max_tokens;
    // Of any number of tokens up to those: tiles grow with it, so that one more may take less.
    const auto largest = [&](auto bytes) {
      int64_t result = bytes(most);
      for (int64_t tokens = few_tokens_ * 2; tokens < most; tokens *= 2)
        result = std::max(result, bytes(tokens));
      return result;
    };
    partials_ =
        scratch(std::max(decode_partial_bytes(few),
                         many_ ? largest([&](int64_t m) { return prefill_partial_bytes(format_, m); }) : 0));
    const int64_t counters =
        std::max(decode_counters(layout_),
                 many_ ? largest([&](int64_t m) { return prefill_counters(format_, layout_, m); }) : 0);
    counters_ = device.allocate(counters * 4);
    device.fill(counters_.data(), 0, counters_.bytes());
    // Few tokens as they are read, or many arranged.
    const bool changes = layout_.x_cols != leaf.cols || input_scales_.bytes() > 0 || codes_activations_;
    const int64_t x_bytes =
        std::max(changes ? (many_ ? few : most) * layout_.x_cols * 2 : 0,
                 many_ ? largest([&](int64_t m) { return prefill_x_bytes(format_, layout_, m); }) : 0);
    if (x_bytes > 0) x_ = scratch(x_bytes);
    if (!codes_activations_) return;
    token_scales_ = scratch(most * 4);
    if (many_) codes_ = scratch(most * cols() * 2);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    if (is_many(tokens)) {
      PrefillArguments arguments;
      arguments.weights = weights_.data();
      arguments.row_scales = row_scales_.as<float>();
      arguments.x = x;
      arguments.input_scales = input_scales_.as<float>();
      if (codes_activations_) {
        quantize(x, tokens, cols(), codes_->data(), on);
        arguments.x = codes_->data();
        arguments.input_scales = nullptr;
        arguments.token_scales = token_scales_->as<float>();
      }
      arguments.arranged = x_->data();
      arguments.y = y;
      arguments.partials = partials_->as<float>();
      arguments.counters = counters_.as<unsigned>();
      arguments.tokens = tokens;
      arguments.multiprocessors = stream.multiprocessors;
      prefill(format_, layout_, arguments, on);
      check_launch("multiplying packed weights by many tokens");
      return;
    }
    multiply_few(x, y, nullptr, tokens, on);
  }
  int64_t weight_bytes() const override {
    return weights_.bytes() + row_scales_.bytes() + input_scales_.bytes();
  }

 protected:
  double work_share() const override { return work_share_; }
  bool forward_rounded(const float* x, float* y, void* rounded, int64_t tokens, Stream& stream) override {
    if (is_many(tokens)) return false;
    multiply_few(x, y, rounded, tokens, cuda_stream(stream));
    return true;
  }

 private:
  bool is_many(int64_t tokens) const { return many_ && tokens > few_tokens_; }

  void quantize(const void* x, int64_t tokens, int64_t stride, void* to, cudaStream_t on) {
    quantize_int8_bf16(x, tokens, cols(), stride, to, token_scales_->as<float>(), on,
                       {.input_scales = input_scales_.as<float>()});
    check_launch("quantizing activations");
  }

  // x as decode() reads it.
  const void* prepare_few(const float* x, int64_t tokens, cudaStream_t on) {
    if (codes_activations_) {
      quantize(x, tokens, layout_.x_cols, x_->data(), on);
    } else if (input_scales_.bytes() > 0) {
      divide_rows(x, tokens, cols(), layout_.x_cols, input_scales_.as<float>(), x_->data(), on);
      check_launch("dividing activations");
    } else if (layout_.x_cols != cols()) {
      pad_rows(x, tokens, cols(), layout_.x_cols, 2, x_->data(), on);
      check_launch("padding activations");
    } else {
      return x;
    }
    return x_->data();
  }

  void multiply_few(const float* x, float* y, void* rounded, int64_t tokens, cudaStream_t on) {
    const void* const in = prepare_few(x, tokens, on);
    for (int64_t token = 0; token < tokens; token += most_few_) {
      DecodeArguments arguments;
      arguments.weights = weights_.data();
      arguments.row_scales = row_scales_.as<float>();
      if (codes_activations_) arguments.token_scales = token_scales_->as<float>() + token;
      arguments.x = static_cast<const std::byte*>(in) + token * layout_.x_cols * 2;
      arguments.y = y + token * rows();
      if (rounded != nullptr) arguments.rounded = static_cast<std::byte*>(rounded) + token * rows() * 2;
      arguments.partials = partials_->as<float>();
      arguments.counters = counters_.as<unsigned>();
      arguments.tokens = std::min(tokens - token, most_few_);
      decode(format_, layout_, arguments, on);
      check_launch("multiplying packed weights");
    }
  }

  DecodeFormat format_;
  DecodeLayout layout_;
  int64_t most_few_, few_tokens_;  // tokens that decode() takes at a time, and those it is faster for
  bool codes_activations_;
  double work_share_;
  bool many_ = false;
  Buffer weights_, row_scales_, input_scales_, counters_;
  std::shared_ptr<Buffer> partials_, x_, codes_, token_scales_;
};

}  // namespace

Kernel cuda_packed_kernel() {
  const Takes takes{.zero_points = true, .input_scales = true};
  Kernel kernel = cuda_kernel("native", "mma", InputType::bf16, takes, [](const Leaf& leaf) -> std::string {
    const Pattern& pattern = leaf.pattern;
    const bool sparse = pattern.kind == PatternKind::n_of_m;
    if (sparse ? pattern.n != 2 || pattern.m != 4 : pattern.kind != PatternKind::dense)
      return "takes dense weights and 2:4";
    if (leaf.bits == 32) return "takes int8, fp8 and int4 weights, and of 2:4 bfloat16: \"dtype\": \"bf16\"";
    if (leaf.bits == 16 && (!sparse || leaf.fp16)) return "takes bfloat16 of 2:4 alone";
    if (leaf.fp8 && sparse) return "takes 2:4 of bfloat16, int8 and int4";
    if (!leaf.zero_points.empty() && (leaf.bits != 4 || sparse)) return "takes zero points of int4 alone";
    const bool codes = leaf.bits == 4 && leaf.activation == ActivationRule::int8_per_token;
    if (leaf.activation != ActivationRule::f32 && !codes && !(sparse && leaf.bits == 16))
      return "takes activations that stay floats, and of int4 int8 ones";
    if (leaf.bits == 8 && !leaf.per_channel) return "takes one scale an output channel";
    if (leaf.bits == 4 && leaf.group != 32 && leaf.group != 64 && leaf.group != 128)
      return "takes groups of 32, 64 or 128";
    return "";
  });
  kernel.preference = 20;
  kernel.rounding = 4;  // cuBLASLt's: with many tokens, and no groups, sums of all of K are the tensor cores'
  kernel.help = "int8, fp8, int4 and 2:4 weights by bfloat16 activations, packed for tensor cores";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<PackedLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

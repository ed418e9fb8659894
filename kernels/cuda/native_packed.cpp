// int8, fp8 and int4 weights, and 2:4 ones of these and bfloat16, by bfloat16 activations: decode.cu's
// products for few tokens, prefill.cu's for more, or, where that is faster and always by kernel `expanded`,
// cuBLASLt's on the weights expanded to a whole matrix. Of int4 the activations may be int8 codes too, which
// bfloat16 holds exactly.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/decode.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"
#include "kernels/cuda/prefill.hpp"
#include "kernels/cuda/stopwatch.hpp"

namespace lamina {
namespace {

constexpr int64_t kLargeRows = 256;  // a multiprocessor: two tiles of prefill.cu each

// Up to so many, tokens that wait in registers are no slower than tokens in shared memory: as measured. Of
// large layers those are faster sooner.
int64_t few_tokens(const Leaf& leaf) {
  const bool large = leaf.rows >= kLargeRows * cuda_properties().multiprocessors;
  return leaf.pattern.kind == PatternKind::n_of_m || large ? 16 : 32;
}

// Up to so many, writing a whole matrix and reading it again takes longer than the packed weights' own
// products.
constexpr int64_t kNeverExpanded = 256;
// Of their time: what noise tells apart, so that it seldom decides.
constexpr double kFasterBy = 0.98;
constexpr int kTrialRounds = 4;

// Whether expanded weights are faster, of layers and streams that are alike.
using Alike = std::tuple<DecodeFormat, int64_t, int64_t, int64_t, bool, bool, int>;
std::map<Alike, bool>& expanded_is_faster() {
  static std::map<Alike, bool> known;  // of one device: a process uses one
  return known;
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
  // `expands`: always where there are more than a few tokens, else where it is faster.
  PackedLayer(const Leaf& leaf, const LayerOptions& options, bool expands)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16),
        format_(format_of(leaf)),
        layout_(decode_layout(format_, leaf.rows, leaf.cols)),
        most_few_(decode_tokens(format_, layout_)),
        few_tokens_(std::min(few_tokens(leaf), most_few_)),
        codes_activations_(leaf.bits == 4 && leaf.activation == ActivationRule::int8_per_token),
        always_expands_(expands),
        expanding_rounds_(leaf.bits == 4),
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
    if (codes_activations_) token_scales_ = scratch(most * 4);
    // prefill.cu divides by input scales itself, and decode.cu quantizes too.
    if (most > few_tokens_ && (codes_activations_ || input_scales_.bytes() > 0))
      prepared_ = scratch(most * cols() * 2);
    allocate_whole(options);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    if (expands(x, y, tokens, stream))
      multiply_expanded(x, y, tokens, stream);
    else
      multiply_packed(x, y, tokens, stream);
  }
  int64_t weight_bytes() const override {
    return weights_.bytes() + row_scales_.bytes() + input_scales_.bytes();
  }
  std::string way(int64_t tokens) const override {
    return has_expanded(tokens) ? "expand+cublaslt" : is_many(tokens) ? "prefill" : "decode";
  }
  bool rounds_weights(int64_t tokens) const override { return expanding_rounds_ && has_expanded(tokens); }

 protected:
  double work_share() const override { return work_share_; }
  bool forward_rounded(const float* x, float* y, void* rounded, int64_t tokens, Stream& stream) override {
    if (is_many(tokens) || expands(x, y, tokens, stream)) return false;
    multiply_few(x, y, rounded, tokens, cuda_stream(stream));
    return true;
  }

 private:
  bool is_many(int64_t tokens) const { return many_ && tokens > few_tokens_; }

  void allocate_whole(const LayerOptions& options) {
    const bool may = options.ways == Ways::any || (options.ways == Ways::exact && !expanding_rounds_);
    if (always_expands_ && !may)
      throw DeviceError("cuda: expanding rounds int4 weights; over several ranks kernel native does not");
    if (!may || options.max_tokens <= (always_expands_ ? few_tokens_ : kNeverExpanded)) return;
    try {
      whole_ = scratch(rows() * cols() * 2);
    } catch (const DeviceError&) {
      if (always_expands_) throw;  // else the packed weights' own products are enough
    }
  }

  Alike alike(int64_t tokens, int multiprocessors) const {
    return {format_, rows(), cols(), tokens, codes_activations_, input_scales_.bytes() > 0, multiprocessors};
  }
  bool may_expand(int64_t tokens) const {
    return whole_ && tokens > (always_expands_ ? few_tokens_ : kNeverExpanded);
  }
  // Whether forward() of so many tokens expanded, on a stream that has the whole GPU.
  bool has_expanded(int64_t tokens) const {
    if (!may_expand(tokens)) return false;
    const auto known = expanded_is_faster().find(alike(tokens, 0));
    return always_expands_ || (known != expanded_is_faster().end() && known->second);
  }
  // The same of this call: both ways are timed where such a layer and stream come for the first time.
  // Whatever is in the way of that, the packed weights' own products stay.
  bool expands(const float* x, float* y, int64_t tokens, Stream& stream) {
    if (!may_expand(tokens) || always_expands_) return may_expand(tokens);
    const Alike key = alike(tokens, stream.multiprocessors);
    if (const auto known = expanded_is_faster().find(key); known != expanded_is_faster().end())
      return known->second;
    if (is_captured(cuda_stream(stream))) return false;
    bool faster = false;
    try {
      multiply_expanded(x, y, tokens, stream);  // for the first time cuBLASLt's algorithms are timed
      Stopwatch stopwatch(stream);
      // From memory, as layers of a model find their weights: what is written before leaves none of them in
      // the L2. By turns: the first runs of a cool chip are its fastest.
      const auto cool = [&] {
        check_cuda(
            cudaMemsetAsync(whole_->data(), 0, static_cast<size_t>(whole_->bytes()), cuda_stream(stream)),
            "clearing memory");
      };
      double packed_us = 0, expanded_us = 0;
      for (int round = 0; round < kTrialRounds; ++round) {
        packed_us += stopwatch.time(
            [&] {
              multiply_packed(x, y, tokens, stream);
              return true;
            },
            cool);
        expanded_us += stopwatch.time(
            [&] {
              multiply_expanded(x, y, tokens, stream);
              return true;
            },
            cool);
      }
      faster = expanded_us < kFasterBy * packed_us;
    } catch (const DeviceError&) {
    }
    expanded_is_faster().emplace(key, faster);
    return faster;
  }

  // x as both products of many tokens read it; input scales where `divides`.
  const void* prepare_many(const float* x, int64_t tokens, bool divides, cudaStream_t on) {
    if (codes_activations_) {
      quantize(x, tokens, cols(), prepared_->data(), on);
    } else if (divides && input_scales_.bytes() > 0) {
      divide_rows(x, tokens, cols(), cols(), input_scales_.as<float>(), prepared_->data(), on);
      check_launch("dividing activations");
    } else {
      return x;
    }
    return prepared_->data();
  }

  void multiply_expanded(const float* x, float* y, int64_t tokens, Stream& stream) {
    const cudaStream_t on = cuda_stream(stream);
    decode_expand(format_, layout_, weights_.data(), whole_->data(), on);
    check_launch("expanding packed weights");
    const void* const in = prepare_many(x, tokens, true, on);
    matmul({}, rows(), tokens, cols(), whole_->data(), in, y, stream);
    if (row_scales_.bytes() == 0 && !codes_activations_) return;
    scale_float(y, tokens, rows(), rows(), row_scales_.as<float>(),
                codes_activations_ ? token_scales_->as<float>() : nullptr, y, rows(), on);
    check_launch("scaling sums");
  }

  void multiply_packed(const float* x, float* y, int64_t tokens, Stream& stream) {
    const cudaStream_t on = cuda_stream(stream);
    if (is_many(tokens)) {
      PrefillArguments arguments;
      arguments.weights = weights_.data();
      arguments.row_scales = row_scales_.as<float>();
      arguments.x = prepare_many(x, tokens, false, on);
      if (codes_activations_)
        arguments.token_scales = token_scales_->as<float>();
      else
        arguments.input_scales = input_scales_.as<float>();
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
  bool codes_activations_, always_expands_;
  bool expanding_rounds_;  // whole weights are the packed ones times their scales, rounded to bfloat16
  double work_share_;
  bool many_ = false;
  Buffer weights_, row_scales_, input_scales_, counters_;
  std::shared_ptr<Buffer> partials_, x_, prepared_, token_scales_;
  std::shared_ptr<Buffer> whole_;  // the weights as bfloat16, codes of 8 bits without their rows' scales
};

Kernel packed_kernel(const char* name, bool expands) {
  const Takes takes{.zero_points = true, .input_scales = true};
  Kernel kernel = cuda_kernel(name, "mma", InputType::bf16, takes, [](const Leaf& leaf) -> std::string {
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
  kernel.rounding = 4;  // cuBLASLt's: with many tokens, and no groups, sums of all of K are the tensor cores'
  kernel.make = [expands](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<PackedLayer>(leaf, options, expands);
  };
  return kernel;
}

}  // namespace

Kernel cuda_packed_kernel() {
  Kernel kernel = packed_kernel("native", false);
  kernel.preference = 20;
  kernel.help = "int8, fp8, int4 and 2:4 weights by bfloat16 activations, packed for tensor cores";
  return kernel;
}

Kernel cuda_expanded_kernel() {
  Kernel kernel = packed_kernel("expanded", true);
  kernel.preference = 0;  // when named
  kernel.help = "the same, with more than a few tokens by cuBLASLt on expanded weights";
  return kernel;
}

}  // namespace lamina

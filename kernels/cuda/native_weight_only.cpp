// int8, fp8 and int4 weights by bfloat16 activations: decode.cu's products, 64 tokens at a time.
#include <algorithm>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/decode.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"

namespace lamina {
namespace {

DecodeFormat format_of(const Leaf& leaf) {
  if (leaf.bits == 8) return leaf.fp8 ? DecodeFormat::fp8 : DecodeFormat::int8;
  return leaf.group == 32   ? DecodeFormat::int4_g32
         : leaf.group == 64 ? DecodeFormat::int4_g64
                            : DecodeFormat::int4_g128;
}

class WeightOnlyLayer final : public CudaLayer {
 public:
  WeightOnlyLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16),
        format_(format_of(leaf)),
        layout_(decode_layout(format_, leaf.rows, leaf.cols)) {
    Device& device = *cuda_device();
    weights_ = device.allocate(layout_.bytes());
    const Buffer codes = to_device(leaf.codes.data(), leaf.rows * leaf.cols);
    Buffer scales = to_device(leaf.scales.data(), static_cast<int64_t>(leaf.scales.size()) * 4);
    decode_pack(format_, layout_, codes.as<int8_t>(), scales.as<float>(), weights_.data(),
                cuda_stream(device.stream(1)));
    check_launch("packing weights");
    device.synchronize();
    if (leaf.bits == 8) row_scales_ = std::move(scales);
    const int64_t most = std::min(options.max_tokens, kDecodeTokens);
    partials_ = scratch(decode_partial_bytes(most));
    counters_ = device.allocate(decode_counters(layout_) * 4);
    device.fill(counters_.data(), 0, counters_.bytes());
    if (layout_.padded_cols() != leaf.cols)
      padded_x_ = scratch(options.max_tokens * layout_.padded_cols() * 2);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    const void* in = x;
    if (padded_x_) {
      pad_rows(x, tokens, cols(), layout_.padded_cols(), 2, padded_x_->data(), on);
      check_launch("padding activations");
      in = padded_x_->data();
    }
    for (int64_t token = 0; token < tokens; token += kDecodeTokens) {
      DecodeArguments arguments;
      arguments.weights = weights_.data();
      arguments.row_scales = row_scales_.as<float>();
      arguments.x = static_cast<const std::byte*>(in) + token * layout_.padded_cols() * 2;
      arguments.y = y + token * rows();
      arguments.partials = partials_->as<float>();
      arguments.counters = counters_.as<unsigned>();
      arguments.tokens = std::min(tokens - token, kDecodeTokens);
      decode(format_, layout_, arguments, on);
      check_launch("multiplying packed weights");
    }
  }
  int64_t weight_bytes() const override { return weights_.bytes() + row_scales_.bytes(); }

 private:
  DecodeFormat format_;
  DecodeLayout layout_;
  Buffer weights_, row_scales_, counters_;
  std::shared_ptr<Buffer> partials_, padded_x_;
};

}  // namespace

Kernel cuda_weight_only_kernel() {
  Kernel kernel = cuda_kernel("native", "mma", InputType::bf16, [](const Leaf& leaf) -> std::string {
    if (leaf.bits != 8 && leaf.bits != 4) return "takes int8, fp8 or int4 weights";
    if (leaf.activation == ActivationRule::int8_per_token) return "takes activations that stay floats";
    if (leaf.bits == 8 && !leaf.per_channel) return "takes one scale an output channel";
    if (leaf.bits == 4 && leaf.group != 32 && leaf.group != 64 && leaf.group != 128)
      return "takes groups of 32, 64 or 128";
    return "";
  });
  kernel.preference = 20;
  kernel.help = "int8, fp8 and int4 weights by bfloat16 activations: packed for tensor cores, for few tokens";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<WeightOnlyLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

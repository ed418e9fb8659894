// W8A8: activations to int8 by our kernel, cuBLASLt's product into int32, and our scaling of the sums. Exact
// until the scales come in, zero points included: a row's is taken from its sums by the sum of a token's
// codes.
#include <vector>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

constexpr int64_t kAlign = 16;  // rows, columns and tokens, as its int8 kernels want them

int64_t aligned(int64_t size) {
  return (size + kAlign - 1) / kAlign * kAlign;
}

class Int8Layer final : public CudaLayer {
 public:
  Int8Layer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::int8),
        n_(aligned(rows())),
        k_(aligned(cols())) {
    Device& device = *cuda_device();
    const cudaStream_t stream = cuda_stream(device.stream(1));
    weights_ = device.allocate(n_ * k_);
    const Buffer codes = to_device(leaf.codes.data(), rows() * cols());
    pad_rows(codes.data(), rows(), cols(), k_, 1, weights_.data(), stream);
    check_launch("packing int8 weights");
    if (n_ > rows()) device.fill(weights_.data() + rows() * k_, 0, (n_ - rows()) * k_);
    scales_ = to_device(leaf.scales.data(), rows() * 4);
    if (!leaf.input_scales.empty()) input_scales_ = to_device(leaf.input_scales.data(), cols() * 4);
    if (!leaf.zero_points.empty()) {
      const std::vector<int32_t> wide(leaf.zero_points.begin(), leaf.zero_points.end());
      zero_points_ = to_device(wide.data(), rows() * 4);
    }
    const int64_t most = aligned(options.max_tokens);
    codes_ = scratch(most * k_);
    token_scales_ = scratch(most * 4);
    if (zero_points_.bytes() > 0) code_sums_ = scratch(most * 4);
    sums_ = scratch(most * n_ * 4);
    device.fill(codes_->data(), 0, codes_->bytes());  // rows past the last token stay zeros, or old codes
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    quantize_int8(x, tokens, cols(), k_, codes_->as<int8_t>(), token_scales_->as<float>(), on,
                  {.input_scales = input_scales_.as<float>(), .code_sums = code_sums()});
    check_launch("quantizing activations");
    matmul({CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I}, n_, aligned(tokens), k_, weights_.data(),
           codes_->data(), sums_->data(), stream);
    scale_int32(sums_->as<int32_t>(), tokens, rows(), n_, scales_.as<float>(), token_scales_->as<float>(), y,
                rows(), on, {.rows = zero_points_.as<int32_t>(), .code_sums = code_sums()});
    check_launch("scaling sums");
  }
  int64_t weight_bytes() const override {
    return weights_.bytes() + scales_.bytes() + zero_points_.bytes() + input_scales_.bytes();
  }

 private:
  int32_t* code_sums() const { return code_sums_ ? code_sums_->as<int32_t>() : nullptr; }
  int64_t n_, k_;
  Buffer weights_, scales_, zero_points_, input_scales_;
  std::shared_ptr<Buffer> codes_, token_scales_, code_sums_, sums_;
};

}  // namespace

Kernel cublaslt_int8_kernel() {
  const Takes takes{.zero_points = true, .input_scales = true};
  Kernel kernel =
      cuda_kernel("cublaslt", "cublaslt", InputType::bf16, takes, [](const Leaf& leaf) -> std::string {
        if (leaf.pattern.kind != PatternKind::dense) return "takes no pruned weights";
        if (leaf.bits != 8 || leaf.fp8 || leaf.activation != ActivationRule::int8_per_token)
          return "takes int8 weights by int8 activations";
        if (!leaf.per_channel) return "takes one scale an output channel";
        return "";
      });
  kernel.preference = 10;
  kernel.help = "W8A8 by cuBLASLt, between our quantization of activations and our scaling of int32 sums";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Int8Layer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

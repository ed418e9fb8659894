// W8A8 in e4m3: activations to fp8 by our kernel, then cuBLASLt's product, which takes a scale a row of W and
// one a token where there are many tokens; where there are few, or it offers none, ours follow its sums.
#include <map>
#include <string>
#include <utility>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

constexpr int64_t kAlign = 16;  // rows, columns and tokens, as its fp8 kernels want them
constexpr int kOldestFp8 = 89;
// Up to so many tokens a product without scales and a kernel that scales its sums are no slower, and with a
// few up to twice as fast: as measured.
constexpr int64_t kFewTokens = 128;

int64_t aligned(int64_t size) {
  return (size + kAlign - 1) / kAlign * kAlign;
}

class Fp8Layer final : public CudaLayer {
 public:
  Fp8Layer(const Leaf& leaf, const LayerOptions& options, bool fast_sums)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::fp8), n_(aligned(rows())), k_(aligned(cols())) {
    Device& device = *cuda_device();
    const cudaStream_t stream = cuda_stream(device.stream(1));
    weights_ = device.allocate(n_ * k_);
    const Buffer codes = to_device(leaf.codes.data(), rows() * cols());
    pad_rows(codes.data(), rows(), cols(), k_, 1, weights_.data(), stream);
    check_launch("packing fp8 weights");
    if (n_ > rows()) device.fill(weights_.data() + rows() * k_, 0, (n_ - rows()) * k_);
    scales_ = device.allocate(n_ * 4);
    device.fill(scales_.data(), 0, n_ * 4);
    device.upload(scales_.data(), leaf.scales.data(), rows() * 4);
    const int64_t most = aligned(options.max_tokens);
    codes_ = scratch(most * k_);
    token_scales_ = scratch(most * 4);
    device.fill(codes_->data(), 0, codes_->bytes());  // rows past the last token stay zeros, or old codes
    device.fill(token_scales_->data(), 0, token_scales_->bytes());
    types_.fast_sums = fast_sums;
    scaling_types_ = types_;
    scaling_types_.outer_scales = true;
    sums_ = scratch(most * n_ * 4);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    quantize_fp8(x, tokens, cols(), k_, codes_->data(), token_scales_->as<float>(), on);
    check_launch("quantizing activations");
    if (scales_inside(tokens)) {
      const bool whole = n_ == rows() && tokens % kAlign == 0;
      void* const to = whole ? y : sums_->as<float>();
      matmul(scaling_types_, n_, aligned(tokens), k_, weights_.data(), codes_->data(), to, stream, scales());
      if (whole) return;
      scale_float(sums_->as<float>(), tokens, rows(), n_, nullptr, nullptr, y, rows(), on);
    } else {
      // All rows at once: by blocks whose sums stay in the cache it was slower.
      matmul(types_, n_, aligned(tokens), k_, weights_.data(), codes_->data(), sums_->data(), stream);
      scale_float(sums_->as<float>(), tokens, rows(), n_, scales_.as<float>(), token_scales_->as<float>(), y,
                  rows(), on);
    }
    check_launch("scaling sums");
  }
  int64_t weight_bytes() const override { return weights_.bytes() + scales_.bytes(); }

 private:
  MatmulScales scales() const { return {scales_.as<float>(), token_scales_->as<float>()}; }
  // Whether cuBLASLt scales the sums of so many tokens: what it offers for some it may not for
  // others.
  bool scales_inside(int64_t tokens) {
    if (tokens <= kFewTokens) return false;
    const auto [known, is_new] = scales_inside_.try_emplace(aligned(tokens), false);
    if (is_new) known->second = matmul_offered(scaling_types_, n_, aligned(tokens), k_, scales());
    return known->second;
  }

  int64_t n_, k_;
  MatmulTypes types_{CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}, scaling_types_;
  std::map<int64_t, bool> scales_inside_;  // by aligned tokens
  Buffer weights_, scales_;
  std::shared_ptr<Buffer> codes_, token_scales_, sums_;
};

Kernel fp8_kernel(std::string name, bool fast_sums) {
  Kernel kernel =
      cuda_kernel(std::move(name), "cublaslt", InputType::bf16, [](const Leaf& leaf) -> std::string {
        if (leaf.pattern.kind != PatternKind::dense) return "takes no pruned weights";
        if (!leaf.fp8 || leaf.activation != ActivationRule::fp8_per_token)
          return "takes fp8 weights by fp8 activations";
        if (!leaf.per_channel) return "takes one scale an output channel";
        return "";
      });
  if (kernel.absent.empty() && cuda_properties().capability < kOldestFp8)
    kernel.absent = "fp8 products need a GPU of compute capability 8.9 or newer";
  kernel.make = [fast_sums](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<Fp8Layer>(leaf, options, fast_sums);
  };
  return kernel;
}

}  // namespace

Kernel cublaslt_fp8_kernel() {
  Kernel kernel = fp8_kernel("cublaslt", false);
  kernel.preference = 10;
  // Hopper's fp8 sums keep about 14 bits between additions in float32.
  kernel.rounding = 256;
  kernel.help = "e4m3 W8A8 by cuBLASLt with a scale a row and a token, after our quantization of activations";
  return kernel;
}

Kernel cublaslt_fast_fp8_kernel() {
  Kernel kernel = fp8_kernel("cublaslt-fast", true);
  kernel.preference = 0;   // when named: it is faster, and rounds more coarsely
  kernel.rounding = 1024;  // 14 bits along all of K
  kernel.help =
      "the same by its fast accumulation, which adds up all of K on the tensor cores, in about 14 bits";
  return kernel;
}

}  // namespace lamina

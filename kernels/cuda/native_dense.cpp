// Dense bfloat16 weights, row-major: one token by gemv.cu, which begins before the kernel in front of it has
// ended and rounds between factors by itself; more by cuBLASLt.
#include <climits>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/gemv.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

class NativeDenseLayer final : public CudaLayer {
 public:
  NativeDenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16),
        weights_(upload_bf16(leaf.values.data(), rows(), cols())) {}

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    if (!forward_rounded(x, y, nullptr, tokens, stream))
      matmul({}, rows(), tokens, cols(), weights_.data(), x, y, stream);
  }
  bool forward_bf16(const float* x, void* y, int64_t tokens, Stream& stream) override {
    if (tokens == 1) return false;
    matmul({.out = CUDA_R_16BF}, rows(), tokens, cols(), weights_.data(), x, y, stream);
    return true;
  }
  int64_t weight_bytes() const override { return weights_.bytes(); }
  std::string way(int64_t tokens) const override { return tokens == 1 ? "gemv" : "cublaslt"; }

 protected:
  bool forward_rounded(const float* x, float* y, void* rounded, int64_t tokens, Stream& stream) override {
    if (tokens > 1) return false;
    gemv({weights_.data(), x, y, rounded, rows(), cols()}, cuda_stream(stream));
    check_launch("multiplying dense weights");
    return true;
  }

 private:
  Buffer weights_;
};

}  // namespace

Kernel cuda_dense_kernel() {
  Kernel kernel = cuda_kernel("native", "fma", InputType::bf16, [](const Leaf& leaf) -> std::string {
    if (leaf.pattern.kind != PatternKind::dense || leaf.bits != 16 || leaf.fp16)
      return "takes dense bfloat16";
    if (leaf.cols % 8 != 0) return "takes in_features that are a multiple of 8";
    if (leaf.rows > INT_MAX / 2) return "takes fewer than 2³⁰ rows";
    return "";
  });
  kernel.preference = 20;
  kernel.rounding = 4;  // cuBLASLt's
  kernel.help = "dense bfloat16: one token by vector arithmetic, more by cuBLASLt";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<NativeDenseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

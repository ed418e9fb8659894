// Dense weights by cuBLASLt: float32 by float32, and bfloat16 or float16 by activations of their own type.
// Sums are float32 in all; TF32 stays off.
#include <fmt/format.h>

#include <string>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

InputType input_of(const Leaf& leaf) {
  return leaf.bits != 16 ? InputType::f32 : leaf.fp16 ? InputType::f16 : InputType::bf16;
}

class DenseLayer final : public CudaLayer {
 public:
  DenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, input_of(leaf), leaf.bits == 16 ? Arithmetic::bf16 : Arithmetic::f32) {
    if (leaf.bits != 16) {
      types_ = {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
      weights_ = to_device(leaf.values.data(), rows() * cols() * 4);
      return;
    }
    if (!leaf.fp16) {
      weights_ = upload_bf16(leaf.values.data(), rows(), cols());
      return;
    }
    types_.in = CUDA_R_16F;
    Device& device = *cuda_device();
    weights_ = device.allocate(rows() * cols() * 2);
    const Buffer staged = to_device(leaf.values.data(), rows() * cols() * 4);
    round_activations(staged.as<float>(), rows() * cols(), true, weights_.data(),
                      cuda_stream(device.stream(1)));
    check_launch("packing float16 weights");
    device.synchronize();
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    matmul(types_, rows(), tokens, cols(), weights_.data(), x, y, stream);
  }
  bool forward_bf16(const float* x, void* y, int64_t tokens, Stream& stream) override {
    if (types_.in != CUDA_R_16BF) return false;
    matmul({.out = CUDA_R_16BF}, rows(), tokens, cols(), weights_.data(), x, y, stream);
    return true;
  }
  int64_t weight_bytes() const override { return weights_.bytes(); }

 private:
  MatmulTypes types_;
  Buffer weights_;
};

// Of one of the three types.
Kernel dense_kernel(InputType input, const std::string& type) {
  Kernel kernel = cuda_kernel("cublaslt", "cublaslt", input, [input, type](const Leaf& leaf) -> std::string {
    if (leaf.pattern.kind != PatternKind::dense) return "takes no pruned weights";
    if (leaf.quantized() || input_of(leaf) != input) return "takes dense " + type;
    if (input == InputType::f16 && leaf.activation != ActivationRule::f32)
      return "takes activations that stay floats";
    return "";
  });
  kernel.preference = 10;
  // Hopper's tensor cores cut sums off instead of rounding them, and cuBLASLt leaves all of K to them: by
  // 28672 columns the worst of a million sums is 2.2 times float32's tolerance off.
  if (input != InputType::f32) kernel.rounding = 4;
  kernel.help =
      fmt::format("dense {0} by {0} activations, by cuBLASLt{1}: its fastest algorithm for the shape", type,
                  input == InputType::f32 ? ", without TF32" : "");
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<DenseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace

Kernel cublaslt_dense_kernel() {
  return dense_kernel(InputType::f32, "float32");
}

Kernel cublaslt_bf16_kernel() {
  return dense_kernel(InputType::bf16, "bfloat16");
}

Kernel cublaslt_fp16_kernel() {
  return dense_kernel(InputType::f16, "float16");
}

}  // namespace lamina

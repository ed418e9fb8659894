// Dense weights by cuBLASLt: float32 by float32, and bfloat16 by bfloat16 activations. Sums are float32 in
// both; TF32 stays off.
#include <algorithm>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

constexpr int64_t kStagedBytes = int64_t{256} << 20;  // of float32 rows on their way to bfloat16

class DenseLayer final : public CudaLayer {
 public:
  DenseLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, leaf.bits == 16 ? InputType::bf16 : InputType::f32,
                  leaf.bits == 16 ? Arithmetic::bf16 : Arithmetic::f32) {
    if (leaf.bits != 16) {
      types_ = {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F};
      weights_ = to_device(leaf.values.data(), rows() * cols() * 4);
      return;
    }
    Device& device = *cuda_device();
    const cudaStream_t stream = cuda_stream(device.stream(1));
    weights_ = device.allocate(rows() * cols() * 2);
    const int64_t step = std::max<int64_t>(kStagedBytes / (4 * cols()), 1);
    for (int64_t row = 0; row < rows(); row += step) {
      const int64_t count = std::min(step, rows() - row);
      const Buffer staged = to_device(leaf.values.data() + row * cols(), count * cols() * 4);
      narrow_bf16(staged.as<float>(), count, cols(), cols(), weights_.data() + row * cols() * 2, stream);
      check_launch("packing bfloat16 weights");
      device.synchronize();
    }
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    matmul(types_, rows(), tokens, cols(), weights_.data(), x, y, cuda_stream(stream));
  }
  int64_t weight_bytes() const override { return weights_.bytes(); }

 private:
  MatmulTypes types_;
  Buffer weights_;
};

Kernel dense_kernel(int bits) {
  Kernel kernel = cuda_kernel("cublaslt", "cublaslt", bits == 16 ? InputType::bf16 : InputType::f32,
                              [bits](const Leaf& leaf) -> std::string {
                                if (leaf.bits != bits)
                                  return bits == 16 ? "takes dense bfloat16" : "takes dense float32";
                                return "";
                              });
  kernel.preference = 10;
  // Hopper's tensor cores cut sums off instead of rounding them, and cuBLASLt leaves all of K to them: by
  // 28672 columns the worst of a million sums is 2.2 times float32's tolerance off.
  if (bits == 16) kernel.rounding = 4;
  kernel.help =
      bits == 16 ? "dense bfloat16 by bfloat16 activations, by cuBLASLt: its fastest algorithm for the shape"
                 : "dense float32 by cuBLASLt, without TF32: its fastest algorithm for the shape";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<DenseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace

Kernel cublaslt_dense_kernel() {
  return dense_kernel(32);
}

Kernel cublaslt_bf16_kernel() {
  return dense_kernel(16);
}

}  // namespace lamina

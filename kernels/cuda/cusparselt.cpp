// 2:4 weights by cuSPARSELt, for many tokens: bfloat16, W8A8 in int8, and in e4m3. Its algorithm search runs
// once a shape, on the layer's own buffers.
#include <cusparseLt.h>
#include <fmt/format.h>

#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"

namespace lamina {
namespace {

constexpr int64_t kAlign = 32;  // rows and columns as its kernels want them; tokens are filled up to it
constexpr uint32_t kAddressAlign = 16;
constexpr size_t kWorkspaceBytes = size_t{64} << 20;
// Its kernels take so many rows at a time, and where a matrix ends within them read on past the size that it
// asks for: 512 bytes of 8800 × 320 in bfloat16, by memcheck.
constexpr int64_t kRowsRead = 64;

void check(cusparseStatus_t status, const char* what) {
  if (status != CUSPARSE_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {} by cuSPARSELt: {}", what, cusparseLtGetErrorString(status)));
}

struct Types {
  cudaDataType in, out;
  cusparseComputeType compute;
};

Types types_of(const Leaf& leaf) {
  if (leaf.bits == 16) return {CUDA_R_16BF, CUDA_R_16BF, CUSPARSE_COMPUTE_32F};
  if (leaf.fp8) return {CUDA_R_8F_E4M3, CUDA_R_32F, CUSPARSE_COMPUTE_32F};
  return {CUDA_R_8I, CUDA_R_32I, CUSPARSE_COMPUTE_32I};
}

struct Library {
  cusparseLtHandle_t handle;
  Buffer workspace;
};

Library& library() {
  static Library* const one = [] {  // as CUDA's own state, never destroyed
    auto* made = new Library;
    check(cusparseLtInit(&made->handle), "starting");
    made->workspace = cuda_device()->allocate(static_cast<int64_t>(kWorkspaceBytes));
    return made;
  }();
  return *one;
}

// Y[M×N] row-major is Yᵀ[N×M] in columns: W[N×K] in rows, sparse, by Xᵀ[K×M] in columns.
struct Plan {
  cusparseLtMatDescriptor_t w, x, y;
  cusparseLtMatmulDescriptor_t product;
  cusparseLtMatmulAlgSelection_t selection;
  cusparseLtMatmulPlan_t plan;
  bool searched = false;

  Plan(const Types& types, int64_t n, int64_t m, int64_t k) {
    const cusparseLtHandle_t* handle = &library().handle;
    check(cusparseLtStructuredDescriptorInit(handle, &w, n, k, k, kAddressAlign, types.in, CUSPARSE_ORDER_ROW,
                                             CUSPARSELT_SPARSITY_50_PERCENT),
          "describing weights");
    check(cusparseLtDenseDescriptorInit(handle, &x, k, m, k, kAddressAlign, types.in, CUSPARSE_ORDER_COL),
          "describing activations");
    check(cusparseLtDenseDescriptorInit(handle, &y, n, m, n, kAddressAlign, types.out, CUSPARSE_ORDER_COL),
          "describing outputs");
    check(cusparseLtMatmulDescriptorInit(handle, &product, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                         CUSPARSE_OPERATION_NON_TRANSPOSE, &w, &x, &y, &y, types.compute),
          "describing a product");
    check(cusparseLtMatmulAlgSelectionInit(handle, &selection, &product, CUSPARSELT_MATMUL_ALG_DEFAULT),
          "choosing an algorithm");
    check(cusparseLtMatmulPlanInit(handle, &plan, &product, &selection), "planning a product");
  }

  void run(const void* weights, const void* in, void* out, cudaStream_t stream) {
    const float one = 1, zero = 0;
    if (!searched) {
      cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
      check_cuda(cudaStreamIsCapturing(stream, &capturing), "asking for a capture");
      if (capturing != cudaStreamCaptureStatusNone)
        throw DeviceError(
            "cuda: a capture met a product of cuSPARSELt's for the first time; run it once before");
      check(cusparseLtMatmulSearch(&library().handle, &plan, &one, weights, in, &zero, out, out,
                                   library().workspace.data(), &stream, 1),
            "searching the fastest algorithm");
      size_t bytes = 0;
      check(cusparseLtMatmulGetWorkspace(&library().handle, &plan, &bytes), "asking for its workspace");
      if (bytes > kWorkspaceBytes)
        throw DeviceError(fmt::format("cuda: cuSPARSELt's algorithm wants a workspace of {} bytes, found {}",
                                      bytes, kWorkspaceBytes));
      searched = true;
    }
    check(cusparseLtMatmul(&library().handle, &plan, &one, weights, in, &zero, out, out,
                           library().workspace.data(), &stream, 1),
          "multiplying");
  }
};

Plan& plan_of(const Types& types, int64_t n, int64_t m, int64_t k) {
  static auto* const plans = new std::map<std::tuple<int, int64_t, int64_t, int64_t>, std::unique_ptr<Plan>>;
  auto& plan = (*plans)[{static_cast<int>(types.in), n, m, k}];
  if (!plan) plan = std::make_unique<Plan>(types, n, m, k);
  return *plan;
}

int64_t aligned(int64_t size) {
  return (size + kAlign - 1) / kAlign * kAlign;
}

class SparseLtLayer final : public CudaLayer {
 public:
  SparseLtLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16,
                  leaf.bits == 16 ? Arithmetic::bf16
                  : leaf.fp8      ? Arithmetic::fp8
                                  : Arithmetic::int8),
        types_(types_of(leaf)),
        element_(leaf.bits / 8) {
    Device& device = *cuda_device();
    const cudaStream_t stream = cuda_stream(device.stream(1));
    const Buffer dense = leaf.bits == 16 ? upload_bf16(leaf.values.data(), rows(), cols())
                                         : to_device(leaf.codes.data(), rows() * cols());
    const Plan& plan = plan_of(types_, rows(), kAlign, cols());
    size_t bytes = 0, passing = 0;
    check(cusparseLtSpMMACompressedSize2(&library().handle, &plan.w, &bytes, &passing), "sizing weights");
    stored_ = static_cast<int64_t>(bytes);
    const int64_t lacking = (kRowsRead - rows() % kRowsRead) % kRowsRead;
    weights_ = device.allocate(stored_ + stored_ / rows() * lacking);
    if (lacking > 0) device.fill(weights_.data(), 0, weights_.bytes());
    Buffer between = device.allocate(static_cast<int64_t>(passing));
    check(cusparseLtSpMMACompress2(&library().handle, &plan.w, 1, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                   dense.data(), weights_.data(), between.data(), stream),
          "compressing weights");
    device.synchronize();
    if (leaf.bits == 8) scales_ = to_device(leaf.scales.data(), rows() * 4);
    const int64_t most = aligned(options.max_tokens);
    in_ = scratch(most * cols() * element_);
    device.fill(in_->data(), 0, in_->bytes());  // tokens past the last stay zeros, or old ones
    token_scales_ = scratch(most * 4);
    sums_ = scratch(most * rows() * 4);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    const int64_t filled = aligned(tokens);
    const void* in = in_->data();
    if (element_ == 2 && filled == tokens)
      in = x;
    else if (element_ == 2)
      check_cuda(cudaMemcpyAsync(in_->data(), x, static_cast<size_t>(tokens * cols() * 2),
                                 cudaMemcpyDeviceToDevice, on),
                 "filling up tokens");
    else if (types_.in == CUDA_R_8I)
      quantize_int8(x, tokens, cols(), cols(), in_->as<int8_t>(), token_scales_->as<float>(), on);
    else
      quantize_fp8(x, tokens, cols(), cols(), in_->data(), token_scales_->as<float>(), on);
    check_launch("preparing activations");
    plan_of(types_, rows(), filled, cols()).run(weights_.data(), in, sums_->data(), on);
    if (element_ == 2)
      widen_bf16(sums_->data(), tokens * rows(), y, on);
    else if (types_.in == CUDA_R_8I)
      scale_int32(sums_->as<int32_t>(), tokens, rows(), rows(), scales_.as<float>(),
                  token_scales_->as<float>(), y, rows(), on);
    else
      scale_float(sums_->as<float>(), tokens, rows(), rows(), scales_.as<float>(), token_scales_->as<float>(),
                  y, rows(), on);
    check_launch("finishing outputs");
  }
  int64_t weight_bytes() const override { return stored_ + scales_.bytes(); }

 protected:
  double work_share() const override { return 0.5; }

 private:
  Types types_;
  int64_t element_;     // bytes
  int64_t stored_ = 0;  // of weights, without what may be read past them
  Buffer weights_, scales_;
  std::shared_ptr<Buffer> in_, token_scales_, sums_;
};

// bits 16, or 8 by activations of the rule.
Kernel sparselt_kernel(int bits, ActivationRule rule, const char* takes) {
  Kernel kernel =
      cuda_kernel("cusparselt", "cusparselt", InputType::bf16, [=](const Leaf& leaf) -> std::string {
        const Pattern& p = leaf.pattern;
        if (p.kind != PatternKind::n_of_m || p.n != 2 || p.m != 4) return "takes weights pruned 2:4";
        const bool ours = leaf.bits == bits && !leaf.fp16 &&
                          (bits == 16 ? leaf.activation != ActivationRule::int8_per_token &&
                                            leaf.activation != ActivationRule::fp8_per_token
                                      : leaf.activation == rule && leaf.per_channel);
        if (!ours) return fmt::format("takes {}", takes);
        if (leaf.rows % kAlign != 0 || leaf.cols % kAlign != 0)
          return fmt::format("takes rows and columns in multiples of {}", kAlign);
        return "";
      });
  kernel.preference = 5;
  kernel.help =
      fmt::format("2:4 weights: {}, by cuSPARSELt with its algorithm search; for many tokens", takes);
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<SparseLtLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace

std::vector<Kernel> cusparselt_kernels() {
  std::vector<Kernel> kernels = {
      sparselt_kernel(16, ActivationRule::f32, "bfloat16"),
      sparselt_kernel(8, ActivationRule::int8_per_token, "int8 by int8 activations"),
      sparselt_kernel(8, ActivationRule::fp8_per_token, "e4m3 by e4m3 activations")};
  kernels[0].rounding = 2048;  // its outputs are bfloat16: 2⁻⁹ of them
  kernels[2].rounding = 1024;  // sums keep about 14 bits
  return kernels;
}

}  // namespace lamina

// Peers for pruned bfloat16 weights, by cuSPARSE's SpMM: compressed sparse rows, and square blocks in
// Blocked-ELL.
#include <cusparse.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/cuda_layer.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/kernels.hpp"

namespace lamina {
namespace {

void check(cusparseStatus_t status, const char* what) {
  if (status != CUSPARSE_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {} by cuSPARSE: {}", what, cusparseGetErrorString(status)));
}

cusparseHandle_t library(cudaStream_t stream) {
  static cusparseHandle_t handle = [] {
    cusparseHandle_t made = nullptr;
    check(cusparseCreate(&made), "starting");
    return made;
  }();
  check(cusparseSetStream(handle, stream), "naming the stream");
  return handle;
}

bool is_kept(const Leaf& leaf, int64_t at) {
  return leaf.mask.empty() ? leaf.values[static_cast<size_t>(at)] != 0
                           : leaf.mask[static_cast<size_t>(at)] != 0;
}

class SparseLayer final : public CudaLayer {
 public:
  SparseLayer(const Leaf& leaf, const LayerOptions& options)
      : CudaLayer(leaf, options, InputType::bf16, Arithmetic::bf16) {
    leaf.pattern.kind == PatternKind::block ? make_blocks(leaf) : make_rows(leaf);
    // Every number of tokens that may come is asked for its workspace when it first does: here for the most.
    const Product& most = product(options.max_tokens, nullptr, nullptr);
    workspace_ = scratch(std::max<int64_t>(static_cast<int64_t>(most.workspace) * 2, 1 << 20));
  }
  ~SparseLayer() override {
    for (auto& [tokens, one] : products_) {
      cusparseDestroyDnMat(one.x);
      cusparseDestroyDnMat(one.y);
    }
    if (weights_ != nullptr) cusparseDestroySpMat(weights_);
  }
  SparseLayer(const SparseLayer&) = delete;
  SparseLayer& operator=(const SparseLayer&) = delete;

  // Y[M×N] row-major is Yᵀ[N×M] in columns: W by Xᵀ[K×M] in columns.
  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    const cudaStream_t on = cuda_stream(stream);
    const Product& one = product(tokens, x, y);
    if (static_cast<int64_t>(one.workspace) > workspace_->bytes())
      throw DeviceError(fmt::format("cuda: cuSPARSE wants a workspace of {} bytes for {} tokens, found {}",
                                    one.workspace, tokens, workspace_->bytes()));
    const float alpha = 1, beta = 0;
    check(cusparseSpMM(library(on), CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE,
                       &alpha, weights_, one.x, &beta, one.y, CUDA_R_32F, algorithm_, workspace_->data()),
          "multiplying");
  }
  int64_t weight_bytes() const override { return values_.bytes() + starts_.bytes() + columns_.bytes(); }

 protected:
  double work_share() const override { return kept_; }

 private:
  struct Product {
    cusparseDnMatDescr_t x = nullptr, y = nullptr;
    size_t workspace = 0;
  };

  Product& product(int64_t tokens, const float* x, float* y) {
    // A descriptor wants an address, where none is known yet any.
    void* const in = x != nullptr ? static_cast<void*>(const_cast<float*>(x)) : values_.data();
    void* const out = y != nullptr ? static_cast<void*>(y) : values_.data();
    auto found = products_.find(tokens);
    if (found != products_.end()) {
      check(cusparseDnMatSetValues(found->second.x, in), "naming activations");
      check(cusparseDnMatSetValues(found->second.y, out), "naming outputs");
      return found->second;
    }
    Product made;
    check(cusparseCreateDnMat(&made.x, cols(), tokens, cols(), in, CUDA_R_16BF, CUSPARSE_ORDER_COL),
          "describing activations");
    check(cusparseCreateDnMat(&made.y, rows(), tokens, rows(), out, CUDA_R_32F, CUSPARSE_ORDER_COL),
          "describing outputs");
    const float alpha = 1, beta = 0;
    check(cusparseSpMM_bufferSize(library(cuda_stream(cuda_device()->stream(1))),
                                  CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &alpha,
                                  weights_, made.x, &beta, made.y, CUDA_R_32F, algorithm_, &made.workspace),
          "sizing a workspace");
    return products_.emplace(tokens, made).first->second;
  }

  void make_rows(const Leaf& leaf) {
    std::vector<int32_t> starts(static_cast<size_t>(rows()) + 1, 0);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows(); ++i) {
      int32_t count = 0;
      for (int64_t j = 0; j < cols(); ++j) count += is_kept(leaf, i * cols() + j) ? 1 : 0;
      starts[static_cast<size_t>(i) + 1] = count;
    }
    for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    const int64_t kept = starts.back();
    std::vector<int32_t> columns(static_cast<size_t>(kept));
    std::vector<float> values(static_cast<size_t>(kept));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows(); ++i) {
      auto at = static_cast<size_t>(starts[static_cast<size_t>(i)]);
      for (int64_t j = 0; j < cols(); ++j) {
        if (!is_kept(leaf, i * cols() + j)) continue;
        columns[at] = static_cast<int32_t>(j);
        values[at++] = leaf.values[static_cast<size_t>(i * cols() + j)];
      }
    }
    starts_ = to_device(starts.data(), static_cast<int64_t>(starts.size()) * 4);
    columns_ = to_device(columns.data(), kept * 4);
    values_ = upload_bf16(values.data(), 1, kept);
    kept_ = static_cast<double>(kept) / static_cast<double>(rows() * cols());
    check(cusparseCreateCsr(&weights_, rows(), cols(), kept, starts_.data(), columns_.data(), values_.data(),
                            CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_16BF),
          "describing weights");
  }

  // Every row of blocks has as many, the last ones named -1 where it has fewer.
  void make_blocks(const Leaf& leaf) {
    const int64_t edge = leaf.pattern.block_rows, down = rows() / edge, across = cols() / edge;
    std::vector<std::vector<int32_t>> named(static_cast<size_t>(down));
    size_t most = 1;
    int64_t kept = 0;
    for (int64_t i = 0; i < down; ++i) {
      auto& own = named[static_cast<size_t>(i)];
      for (int64_t j = 0; j < across; ++j)
        if (is_kept(leaf, i * edge * cols() + j * edge)) own.push_back(static_cast<int32_t>(j));
      most = std::max(most, own.size());
      kept += static_cast<int64_t>(own.size());
    }
    const auto width = static_cast<int64_t>(most) * edge;
    std::vector<float> values(static_cast<size_t>(rows() * width), 0.0f);
    std::vector<int32_t> columns;
    for (int64_t i = 0; i < down; ++i) {
      auto& own = named[static_cast<size_t>(i)];
      own.resize(most, -1);
      columns.insert(columns.end(), own.begin(), own.end());
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows(); ++row)
      for (size_t b = 0; b < most; ++b) {
        const int64_t block = named[static_cast<size_t>(row / edge)][b];
        if (block >= 0)
          std::copy_n(leaf.values.data() + row * cols() + block * edge, edge,
                      values.data() + row * width + static_cast<int64_t>(b) * edge);
      }
    columns_ = to_device(columns.data(), static_cast<int64_t>(columns.size()) * 4);
    values_ = upload_bf16(values.data(), rows(), width);
    kept_ = static_cast<double>(kept) / static_cast<double>(down * across);
    algorithm_ = CUSPARSE_SPMM_BLOCKED_ELL_ALG1;
    check(cusparseCreateBlockedEll(&weights_, rows(), cols(), edge, width, columns_.data(), values_.data(),
                                   CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_16BF),
          "describing weights");
  }

  double kept_ = 1;
  cusparseSpMatDescr_t weights_ = nullptr;
  cusparseSpMMAlg_t algorithm_ =
      CUSPARSE_SPMM_CSR_ALG3;  // the one whose sums are in the same order each time
  Buffer values_, starts_, columns_;
  std::shared_ptr<Buffer> workspace_;
  std::map<int64_t, Product> products_;
};

}  // namespace

Kernel cusparse_kernel() {
  Kernel kernel = cuda_kernel("cusparse", "cusparse", InputType::bf16, [](const Leaf& leaf) -> std::string {
    const Pattern& p = leaf.pattern;
    if (p.kind == PatternKind::dense) return "takes pruned weights";
    if (leaf.bits != 16 || leaf.fp16) return "takes pruned weights of bfloat16";
    if (leaf.rows * leaf.cols > INT32_MAX) return "takes fewer than 2³¹ weights";
    if (p.kind != PatternKind::block) return "";
    const bool fits =
        p.block_rows == p.block_cols && p.block_rows >= 16 && (p.block_rows & (p.block_rows - 1)) == 0;
    if (!fits || leaf.rows % p.block_rows != 0)
      return "takes blocks that are squares of a power of 2, 16 or more";
    return "";
  });
  kernel.preference = 0;  // a peer, where a config names it
  kernel.rounding = 8;    // its sums' order is its own
  kernel.help = "pruned bfloat16 by cuSPARSE's SpMM: compressed sparse rows, or square blocks in Blocked-ELL";
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<SparseLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

#include "kernels/cuda/matmul.hpp"

#include <fmt/format.h>

#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/stopwatch.hpp"

namespace lamina {
namespace {

constexpr int kCandidates = 24;
constexpr size_t kWorkspaceBytes = size_t{64} << 20;

struct Library {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;  // shared by all products: they run one after the other on one stream
};

Library& library() {
  static Library one = [] {
    Library made;
    check_cublas(cublasLtCreate(&made.handle), "starting cuBLASLt");
    check_cuda(cudaMalloc(&made.workspace, kWorkspaceBytes), "allocating cuBLASLt's workspace");
    return made;
  }();
  return one;
}

template <auto Destroy>
struct Deleter {
  template <class T>
  void operator()(T* one) const {
    Destroy(one);
  }
};
using Description = std::unique_ptr<cublasLtMatmulDescOpaque_t, Deleter<cublasLtMatmulDescDestroy>>;
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, Deleter<cublasLtMatrixLayoutDestroy>>;
using Preference =
    std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, Deleter<cublasLtMatmulPreferenceDestroy>>;

Layout make_layout(cudaDataType_t type, int64_t rows, int64_t cols) {
  cublasLtMatrixLayout_t made = nullptr;
  check_cublas(
      cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows),
      "describing a matrix");
  return Layout(made);
}

// What is row-major here is its own transpose in cuBLAS's column-major order: Yᵀ[N×M] = (Wᵀ)ᵀ·Xᵀ.
struct Plan {
  Description operation;
  Layout w, x, y;
  cublasLtMatmulAlgo_t algorithm{};
  cudaDataType_t scale = CUDA_R_32F;
  bool narrow = false;  // y's type holds less than the sums': parts of K may not be added up in it

  void name(const MatmulScales& scales) const {
    if (scales.w == nullptr) return;
    check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                                &scales.w, sizeof scales.w),
                 "naming scales");
    check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                                                &scales.x, sizeof scales.x),
                 "naming scales");
  }
  cublasStatus_t run(const void* w_data, const void* x_data, void* y_data, cudaStream_t stream,
                     const MatmulScales& scales) const {
    name(scales);
    const float one = 1, zero = 0;
    const int32_t int_one = 1, int_zero = 0;
    const bool whole = scale == CUDA_R_32I;
    return cublasLtMatmul(library().handle, operation.get(),
                          whole ? static_cast<const void*>(&int_one) : &one, w_data, w.get(), x_data, x.get(),
                          whole ? static_cast<const void*>(&int_zero) : &zero, y_data, y.get(), y_data,
                          y.get(), &algorithm, library().workspace, kWorkspaceBytes, stream);
  }
};

std::array<cublasLtMatmulHeuristicResult_t, kCandidates> candidates(const Plan& plan, int* count,
                                                                    cublasStatus_t* status) {
  cublasLtMatmulPreference_t made = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&made), "describing what is wanted");
  const Preference preference(made);
  check_cublas(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &kWorkspaceBytes, sizeof kWorkspaceBytes),
               "describing what is wanted");
  if (plan.narrow) {
    const uint32_t wide = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    check_cublas(cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &wide,
                                                      sizeof wide),
                 "describing what is wanted");
  }
  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found{};
  *status =
      cublasLtMatmulAlgoGetHeuristic(library().handle, plan.operation.get(), plan.w.get(), plan.x.get(),
                                     plan.y.get(), plan.y.get(), made, kCandidates, found.data(), count);
  if (*status != CUBLAS_STATUS_SUCCESS) *count = 0;
  return found;
}

void choose(Plan& plan, const std::string& what, const void* w, const void* x, void* y, const Stream& on,
            MatmulScales scales) {
  const cudaStream_t stream = cuda_stream(on);
  int count = 0;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  const auto found = candidates(plan, &count, &status);
  if (count == 0)
    throw DeviceError(fmt::format("cuda: cuBLASLt has no algorithm for {} ({}); use another shape or kernel",
                                  what, cublasLtGetStatusString(status)));
  Stopwatch stopwatch(on);
  double best = -1;
  cublasLtMatmulAlgo_t winner{};
  for (int i = 0; i < count; ++i) {
    if (found[static_cast<size_t>(i)].state != CUBLAS_STATUS_SUCCESS) continue;
    plan.algorithm = found[static_cast<size_t>(i)].algo;
    const double us =
        stopwatch.time([&] { return plan.run(w, x, y, stream, scales) == CUBLAS_STATUS_SUCCESS; });
    if (us < 0 || (best >= 0 && us >= best)) continue;
    best = us;
    winner = plan.algorithm;
  }
  if (best < 0) throw DeviceError(fmt::format("cuda: none of cuBLASLt's algorithms runs {}", what));
  plan.algorithm = winner;
}

Plan make_plan(const MatmulTypes& types, int64_t n, int64_t m, int64_t k, const MatmulScales& scales,
               int multiprocessors = 0) {
  Plan plan;
  cublasLtMatmulDesc_t made = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&made, types.compute, types.scale), "describing a product");
  plan.operation.reset(made);
  plan.scale = types.scale;
  plan.narrow = types.out == CUDA_R_16BF;
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof value),
                 "describing a product");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, int32_t{multiprocessors});
  if (types.outer_scales) {
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
  }
  if (types.fast_sums) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
  plan.name(scales);  // the heuristic offers nothing for scales that have no place yet
  plan.w = make_layout(types.in, k, n);
  plan.x = make_layout(types.in, k, m);
  plan.y = make_layout(types.out, n, m);
  return plan;
}

}  // namespace

void check_cublas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw DeviceError(fmt::format("cuda: {}: {}", what, cublasLtGetStatusString(status)));
}

void matmul(const MatmulTypes& types, int64_t n, int64_t m, int64_t k, const void* w, const void* x, void* y,
            const Stream& on, MatmulScales scales) {
  const cudaStream_t stream = cuda_stream(on);
  // Of one device: a process uses one.
  static std::map<std::tuple<MatmulTypes, int64_t, int64_t, int64_t, int>, Plan> plans;
  const auto key = std::make_tuple(types, n, m, k, on.multiprocessors);
  auto found = plans.find(key);
  if (found == plans.end()) {
    if (on.multiprocessors > 0)  // a step's products are captured with others beside them and alone
      matmul(types, n, m, k, w, x, y, {.threads = on.threads, .handle = on.handle}, scales);
    const std::string what = fmt::format("{} tokens by {}×{}", m, n, k);
    if (is_captured(stream))
      throw DeviceError(fmt::format("cuda: a capture met {} for the first time; run it once before", what));
    Plan plan = make_plan(types, n, m, k, scales, on.multiprocessors);
    choose(plan, what, w, x, y, on, scales);
    found = plans.emplace(key, std::move(plan)).first;
  }
  check_cublas(found->second.run(w, x, y, stream, scales), "multiplying by cuBLASLt");
}

bool matmul_offered(const MatmulTypes& types, int64_t n, int64_t m, int64_t k, MatmulScales scales) {
  try {
    const Plan plan = make_plan(types, n, m, k, scales);
    int count = 0;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    candidates(plan, &count, &status);
    return count > 0;
  } catch (const DeviceError&) {  // older ones do not know of such scales
    return false;
  }
}

}  // namespace lamina

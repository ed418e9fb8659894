// Dense float32 by the BLAS that the program was linked with: OpenBLAS, or what a cluster's modules offer.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/buffer.hpp"
#include "kernels/cpu/kernels.hpp"

extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void sgemv_(const char* trans, const int* m, const int* n, const float* alpha, const float* a, const int* lda,
            const float* x, const int* incx, const float* beta, float* y, const int* incy);
}

namespace lamina {
namespace {

template <class Function>
Function find_symbol(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

// Thread counts are each library's own; a BLAS that has none of these runs as its environment says.
struct BlasThreads {
  using Set = void (*)(int);
  using Get = int (*)();
  Set set = nullptr;
  Get get = nullptr;

  BlasThreads() {
    const char* names[][2] = {{"openblas_set_num_threads", "openblas_get_num_threads"},
                              {"MKL_Set_Num_Threads", "MKL_Get_Max_Threads"},
                              {"bli_thread_set_num_threads", "bli_thread_get_num_threads"}};
    for (const auto& name : names) {
      set = find_symbol<Set>(name[0]);
      get = find_symbol<Get>(name[1]);
      if (set != nullptr && get != nullptr) return;
    }
    set = nullptr;
  }

  // Only when it differs: setting it is not free, and others in this process set it too.
  void use(int threads) const {
    if (set != nullptr && get() != threads) set(threads);
  }
};

const BlasThreads& blas_threads() {
  static const BlasThreads threads;
  return threads;
}

std::string blas_isa() {
  if (auto core = find_symbol<char* (*)()>("openblas_get_corename"))
    return fmt::format("openblas-{}", core());
  if (find_symbol<void*>("MKL_Get_Max_Threads") != nullptr) return "mkl";
  if (find_symbol<void*>("bli_thread_get_num_threads") != nullptr) return "blis";
  return "blas";
}

class OpenBlasLayer final : public Layer {
 public:
  OpenBlasLayer(const Leaf& leaf, const LayerOptions& options)
      : rows_(leaf.rows), cols_(leaf.cols), weights_(leaf.rows * leaf.cols * 4, options.threads) {
    check_leaf(leaf);
    if (std::max({leaf.rows, leaf.cols, options.max_tokens}) > INT_MAX)
      throw std::invalid_argument(
          fmt::format("openblas: expected sizes under 2³¹, found {} × {} and {} tokens", leaf.rows, leaf.cols,
                      options.max_tokens));
    if (!leaf.values.empty()) std::memcpy(weights_.data(), leaf.values.data(), leaf.values.size() * 4);
  }

  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    // beta is 0, but some libraries multiply y by it all the same, and old contents may be NaN.
    std::memset(y, 0, static_cast<size_t>(tokens * rows_) * 4);
    if (rows_ == 0 || cols_ == 0 || tokens == 0) return;
    blas_threads().use(std::max(stream.threads, 1));
    const int n = static_cast<int>(rows_), k = static_cast<int>(cols_), m = static_cast<int>(tokens);
    const float one = 1, zero = 0;
    const auto* w = weights_.as<float>();
    // Row-major W [N×K] is column-major Wᵀ [K×N], so Yᵀ [N×M] = (Wᵀ)ᵀ·Xᵀ.
    if (m == 1) {
      const int step = 1;
      sgemv_("T", &k, &n, &one, w, &k, x, &step, &zero, y, &step);
    } else {
      sgemm_("T", "N", &n, &m, &k, &one, w, &k, x, &k, &zero, y, &n);
    }
  }

  Cost cost(int64_t tokens) const override {
    const auto rows = static_cast<double>(rows_), cols = static_cast<double>(cols_),
               m = static_cast<double>(tokens);
    return {.operations = 2 * m * rows * cols,
            .integer = false,
            .read_bytes = 4 * rows * cols + 4 * m * cols,
            .write_bytes = 4 * m * rows};
  }

  int64_t weight_bytes() const override { return 4 * rows_ * cols_; }

 private:
  int64_t rows_, cols_;
  Buffer weights_;
};

}  // namespace

Kernel openblas_kernel() {
  Kernel kernel;
  kernel.name = "openblas";
  kernel.device = "cpu";
  kernel.help = "dense float32 by the linked BLAS: sgemv for one token, sgemm for more";
  kernel.isa = blas_isa();
  kernel.preference = 10;
  kernel.refuses = [](const Leaf& leaf) -> std::string {
    if (leaf.bits == 16) return "multiplies float32 weights, not bfloat16 ones";
    if (leaf.quantized()) return fmt::format("multiplies float32 weights, not {}-bit codes", leaf.bits);
    if (leaf.pattern.kind != PatternKind::dense) return "multiplies dense weights, not pruned ones";
    if (leaf.activation != ActivationRule::f32) return "multiplies float32 activations only";
    if (!leaf.input_scales.empty()) return "takes no input scales";
    return {};
  };
  kernel.make = [](const Leaf& leaf, const LayerOptions& options) -> std::unique_ptr<Layer> {
    return std::make_unique<OpenBlasLayer>(leaf, options);
  };
  return kernel;
}

}  // namespace lamina

// Dense float32 by the BLAS that the program was linked with: OpenBLAS, or what a cluster's modules offer.
#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "kernels/cpu/blas_layer.hpp"
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

}  // namespace

Kernel openblas_kernel() {
  Kernel kernel = blas_kernel({sgemm_, sgemv_, [](int threads) { blas_threads().use(threads); }});
  kernel.name = "openblas";
  kernel.help = "dense float32 by the linked BLAS: sgemv for one token, sgemm for more";
  kernel.isa = blas_isa();
  kernel.preference = 10;
  return kernel;
}

}  // namespace lamina

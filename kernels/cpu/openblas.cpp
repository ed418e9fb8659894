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

std::string blas_isa() {
  if (auto core = find_symbol<char* (*)()>("openblas_get_corename"))
    return fmt::format("openblas-{}", core());
  if (find_symbol<void*>("MKL_Get_Max_Threads") != nullptr) return "mkl";
  if (find_symbol<void*>("bli_thread_get_num_threads") != nullptr) return "blis";
  return "blas";
}

}  // namespace

Kernel openblas_kernel() {
  Kernel kernel = blas_kernel({sgemm_, sgemv_, nullptr});
  kernel.name = "openblas";
  kernel.help = "dense float32 by the linked BLAS: sgemv for one token, sgemm for more";
  kernel.isa = blas_isa();
  kernel.preference = 10;
  return kernel;
}

}  // namespace lamina

// Dense float32 by any library with the Fortran interface of the BLAS.
#pragma once

#include "kernels/registry.hpp"

namespace lamina {

struct Blas {
  void (*sgemm)(const char* transa, const char* transb, const int* m, const int* n, const int* k,
                const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                const float* beta, float* c, const int* ldc);
  void (*sgemv)(const char* trans, const int* m, const int* n, const float* alpha, const float* a,
                const int* lda, const float* x, const int* incx, const float* beta, float* y,
                const int* incy);
  void (*use_threads)(
      int threads);  // where the library is not the linked one, whose threads BlasThreads sets
};

// What it refuses and makes; name, help, instruction set and preference are the caller's.
Kernel blas_kernel(const Blas& blas);

}  // namespace lamina

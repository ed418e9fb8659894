// What this program's kernels were compiled to, as far as the current GPU runs them.
#pragma once

#include <cuda_runtime.h>

namespace lamina {

struct Built {
  cudaError_t status = cudaSuccess;  // cudaErrorNoKernelImageForDevice: nothing in it is for this GPU
  int ptx = 0;                       // the compute capability that its code was compiled for, 90: 9.0
};
// Makes the current GPU's context.
Built built();

}  // namespace lamina

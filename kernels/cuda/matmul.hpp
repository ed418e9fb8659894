// cuBLASLt's products for layers: Y[M×N] = X[M×K]·W[N×K]ᵀ, all row-major, by the fastest of the algorithms
// that its heuristic offers. Sums along K are in types.compute until y is written.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <compare>
#include <cstdint>

#include "kernels/device.hpp"

namespace lamina {

struct MatmulTypes {
  cudaDataType_t in = CUDA_R_16BF;  // of X and W
  cudaDataType_t out = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType_t scale = CUDA_R_32F;
  bool outer_scales = false;  // y[t][i] = sum · scales.w[i] · scales.x[t]
  bool fast_sums = false;     // of 8-bit floats: all of K by the tensor cores, in about 14 bits
  auto operator<=>(const MatmulTypes&) const = default;
};
// float32, one a row of W and one a token; of types with outer_scales.
struct MatmulScales {
  const float* w = nullptr;
  const float* x = nullptr;
};

// Puts the product on the stream. The first call for types and shape asks the heuristic and times its
// candidates on these very buffers, which makes memory of the host's and waits; it must not be captured.
// Later ones only launch. Throws DeviceError: where cuBLASLt has no algorithm for the shape, and where a
// capture meets a shape for the first time. Of a stream that leaves multiprocessors to others, the candidates
// are told so, and timed while those are taken.
void matmul(const MatmulTypes& types, int64_t n, int64_t m, int64_t k, const void* w, const void* x, void* y,
            const Stream& stream, MatmulScales scales = {});
// Whether cuBLASLt's heuristic offers anything for it. It has to see scales that a product will have.
bool matmul_offered(const MatmulTypes& types, int64_t n, int64_t m, int64_t k, MatmulScales scales = {});

}  // namespace lamina

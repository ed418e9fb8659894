#include "kernels/cuda/gemv.hpp"

#include <algorithm>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rounding.cuh"

namespace lamina {
namespace {

constexpr int kWarps = 8;        // of a block of threads
constexpr int kBlocks = 4;       // of a multiprocessor
constexpr int kPiecesOnWay = 8;  // of 16 bytes, that a lane has asked for before it multiplies

struct Work {
  const uint4* weights;
  const uint4* x;
  float* y;
  uint16_t* rounded;
  int rows;
  int pieces;  // of 8 columns, in a row
};

__device__ __forceinline__ float2 two_of(uint32_t word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

// A warp takes kRows rows at a time, whose activations it loads once.
template <int kRows>
__global__ void __launch_bounds__(kWarps * 32, kBlocks) gemv_kernel(const Work work) {
  constexpr int kPieces = kPiecesOnWay / kRows;  // of a row
  const int lane = threadIdx.x % 32, warps = gridDim.x * kWarps;
  bool waited = false;  // weights do not depend on the kernel before, as activations do
  let_next_begin();
  for (int group = blockIdx.x * kWarps + threadIdx.x / 32; group * kRows < work.rows; group += warps) {
    float sums[kRows] = {};
    const uint4* from[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
      from[r] = work.weights + int64_t{min(group * kRows + r, work.rows - 1)} * work.pieces;
    for (int first = lane; first - lane < work.pieces; first += 32 * kPieces) {
      uint4 w[kPieces][kRows];
#pragma unroll
      for (int p = 0; p < kPieces; ++p)
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          w[p][r] = first + 32 * p < work.pieces ? __ldcs(from[r] + first + 32 * p) : uint4{0, 0, 0, 0};
      if (!waited) wait_for_previous();
      waited = true;
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
        if (first + 32 * p >= work.pieces) continue;
        const uint4 x = work.x[first + 32 * p];
        const uint32_t of_x[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const uint32_t of_w[4] = {w[p][r].x, w[p][r].y, w[p][r].z, w[p][r].w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 a = two_of(of_w[i]), b = two_of(of_x[i]);
            sums[r] += a.x * b.x;
            sums[r] += a.y * b.y;
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int offset = 16; offset > 0; offset /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], offset);
      const int row = group * kRows + r;
      if (lane != r || row >= work.rows) continue;
      work.y[row] = sums[r];
      if (work.rounded != nullptr) work.rounded[row] = bf16_of(sums[r]);
    }
  }
  if (!waited) wait_for_previous();
}

template <int kRows>
void launch(const Work& work, cudaStream_t stream) {
  const int groups = (work.rows + kRows - 1) / kRows;
  const int blocks = std::min((groups + kWarps - 1) / kWarps, kBlocks * cuda_properties().multiprocessors);
  launch_overlapped(gemv_kernel<kRows>, static_cast<unsigned>(blocks), kWarps * 32, 0, stream, work);
}

}  // namespace

void gemv(const GemvArguments& a, cudaStream_t stream) {
  const Work work{
      static_cast<const uint4*>(a.weights), static_cast<const uint4*>(a.x), a.y,
      static_cast<uint16_t*>(a.rounded),    static_cast<int>(a.rows),       static_cast<int>(a.cols / 8)};
  // Rows at a time: few where there are few, so that all warps have some.
  const int warps = kBlocks * kWarps * cuda_properties().multiprocessors;
  if (work.rows >= 4 * warps)
    launch<4>(work, stream);
  else if (work.rows >= 3 * warps / 2)
    launch<2>(work, stream);
  else
    launch<1>(work, stream);
}

}  // namespace lamina

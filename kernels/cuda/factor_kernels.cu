#include "kernels/cuda/factor_kernels.hpp"

#include "kernels/cuda/elements.cuh"
#include "kernels/sketch.hpp"

namespace lamina {
namespace {

constexpr int kRowsAtATime = 256;  // of a column that one thread takes
constexpr int kTile = 32;          // of a transposition

// Never a fused multiply-add: the term is rounded to the grid once.
__device__ double on_grid(double term, double shift) {
  return __dsub_rn(__dadd_rn(term, shift), shift);
}

template <class T>
__global__ void add_on_grid_kernel(const T* from, int64_t from_stride, int64_t rows, int64_t cols,
                                   double shift, double* sums, int64_t stride) {
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
    LAMINA_FOR_EACH(j, cols)
    sums[i * stride + j] += on_grid(static_cast<double>(from[i * from_stride + j]), shift);
  }
}

template <class T>
__global__ void widen_kernel(const T* from, int64_t rows, int64_t cols, const double* factors, double* to) {
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
    LAMINA_FOR_EACH(j, cols) {
      const double x = from[i * cols + j];
      to[i * cols + j] = factors == nullptr ? x : x * factors[j];
    }
  }
}

template <class T>
__global__ void narrow_kernel(const T* from, int64_t count, double factor, float* to) {
  LAMINA_FOR_EACH(i, count) to[i] = static_cast<float>(from[i] * factor);
}

// Bits of doubles that are not negative are in their order.
template <class T>
__global__ void largest_kernel(const T* from, int64_t rows, int64_t cols, double* most) {
  const int64_t begin = int64_t{blockIdx.y} * kRowsAtATime;
  const int64_t end = begin + kRowsAtATime < rows ? begin + kRowsAtATime : rows;
  LAMINA_FOR_EACH(j, cols) {
    double own = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double magnitude = fabs(static_cast<double>(from[i * cols + j]));
      own = isfinite(magnitude) ? fmax(own, magnitude) : INFINITY;
    }
    atomicMax(reinterpret_cast<unsigned long long*>(most + j),
              static_cast<unsigned long long>(__double_as_longlong(own)));
  }
}

template <class T>
__global__ void squares_kernel(const T* from, int64_t rows, int64_t cols, const double* shifts,
                               double* sums) {
  const int64_t begin = int64_t{blockIdx.y} * kRowsAtATime;
  const int64_t end = begin + kRowsAtATime < rows ? begin + kRowsAtATime : rows;
  LAMINA_FOR_EACH(j, cols) {
    double own = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double x = from[i * cols + j];
      own += on_grid(__dmul_rn(x, x), shifts[j]);
    }
    atomicAdd(sums + j, own);
  }
}

__global__ void block_squares_kernel(const double* from, int64_t rows, int64_t cols, int64_t block,
                                     double* sums) {
  __shared__ double parts[kElementThreads];
  const int64_t begin = int64_t{blockIdx.x} * block * cols;
  const int64_t last = (int64_t{blockIdx.x} + 1) * block;
  const int64_t end = (last < rows ? last : rows) * cols;
  double own = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kElementThreads) own += from[i] * from[i];
  parts[threadIdx.x] = own;
  __syncthreads();
  for (int half = kElementThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
}

__global__ void reverse_kernel(const double* from, int64_t rows, int64_t cols, double* to) {
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
    LAMINA_FOR_EACH(j, cols) to[i * cols + j] = from[(rows - 1 - i) * cols + j];
  }
}

__global__ void transpose_kernel(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to,
                                 int64_t to_stride) {
  __shared__ float tile[kTile][kTile + 1];  // a column more, so that its columns lie in different banks
  const int64_t col = int64_t{blockIdx.x} * kTile;
  for (int64_t row = int64_t{blockIdx.y} * kTile; row < rows; row += int64_t{gridDim.y} * kTile) {
    for (int i = threadIdx.y; i < kTile; i += blockDim.y)
      if (row + i < rows && col + threadIdx.x < cols)
        tile[i][threadIdx.x] = from[(row + i) * stride + col + threadIdx.x];
    __syncthreads();
    for (int j = threadIdx.y; j < kTile; j += blockDim.y)
      if (col + j < cols && row + threadIdx.x < rows)
        to[(col + j) * to_stride + row + threadIdx.x] = tile[threadIdx.x][j];
    __syncthreads();
  }
}

__global__ void sketch_kernel(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols,
                              float* to) {
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y) {
    LAMINA_FOR_EACH(j, cols)
    to[i * cols + j] =
        sketch_number(seed, static_cast<uint64_t>(first_row + i), static_cast<uint64_t>(first_col + j));
  }
}

// A block of threads a stretch of a row.
dim3 by_rows(int64_t rows, int64_t cols) {
  return {static_cast<unsigned>(blocks_for(cols)), static_cast<unsigned>(rows < 65535 ? rows : 65535)};
}
// A thread a stretch of a column. At most 65535·256 rows.
dim3 by_columns(int64_t rows, int64_t cols) {
  return {static_cast<unsigned>(blocks_for(cols)),
          static_cast<unsigned>((rows + kRowsAtATime - 1) / kRowsAtATime)};
}

}  // namespace

template <class T>
void add_on_grid(const T* from, int64_t from_stride, int64_t rows, int64_t cols, double shift, double* sums,
                 int64_t stride, cudaStream_t stream) {
  if (rows * cols > 0)
    add_on_grid_kernel<<<by_rows(rows, cols), kElementThreads, 0, stream>>>(from, from_stride, rows, cols,
                                                                            shift, sums, stride);
}

template <class T>
void widen_scaled(const T* from, int64_t rows, int64_t cols, const double* factors, double* to,
                  cudaStream_t stream) {
  if (rows * cols > 0)
    widen_kernel<<<by_rows(rows, cols), kElementThreads, 0, stream>>>(from, rows, cols, factors, to);
}

template <class T>
void narrow_scaled(const T* from, int64_t count, double factor, float* to, cudaStream_t stream) {
  if (count > 0) narrow_kernel<<<blocks_for(count), kElementThreads, 0, stream>>>(from, count, factor, to);
}

template <class T>
void largest_of_columns(const T* from, int64_t rows, int64_t cols, double* most, cudaStream_t stream) {
  if (rows * cols > 0)
    largest_kernel<<<by_columns(rows, cols), kElementThreads, 0, stream>>>(from, rows, cols, most);
}

template <class T>
void squares_of_columns(const T* from, int64_t rows, int64_t cols, const double* shifts, double* sums,
                        cudaStream_t stream) {
  if (rows * cols > 0)
    squares_kernel<<<by_columns(rows, cols), kElementThreads, 0, stream>>>(from, rows, cols, shifts, sums);
}

void squares_of_blocks(const double* from, int64_t rows, int64_t cols, int64_t block, double* sums,
                       cudaStream_t stream) {
  const int64_t blocks = (rows + block - 1) / block;
  if (blocks > 0)
    block_squares_kernel<<<static_cast<unsigned>(blocks), kElementThreads, 0, stream>>>(from, rows, cols,
                                                                                        block, sums);
}

void reverse_rows(const double* from, int64_t rows, int64_t cols, double* to, cudaStream_t stream) {
  if (rows * cols > 0)
    reverse_kernel<<<by_rows(rows, cols), kElementThreads, 0, stream>>>(from, rows, cols, to);
}

void transpose(const float* from, int64_t stride, int64_t rows, int64_t cols, float* to, int64_t to_stride,
               cudaStream_t stream) {
  if (rows * cols == 0) return;
  const auto tiles = [](int64_t size) { return (size + kTile - 1) / kTile; };
  const int64_t down = tiles(rows);
  const dim3 grid(static_cast<unsigned>(tiles(cols)), static_cast<unsigned>(down < 65535 ? down : 65535));
  transpose_kernel<<<grid, dim3(kTile, 8), 0, stream>>>(from, stride, rows, cols, to, to_stride);
}

void fill_sketch(uint64_t seed, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, float* to,
                 cudaStream_t stream) {
  if (rows * cols > 0)
    sketch_kernel<<<by_rows(rows, cols), kElementThreads, 0, stream>>>(seed, first_row, rows, first_col, cols,
                                                                       to);
}

template void add_on_grid(const float*, int64_t, int64_t, int64_t, double, double*, int64_t, cudaStream_t);
template void add_on_grid(const double*, int64_t, int64_t, int64_t, double, double*, int64_t, cudaStream_t);
template void widen_scaled(const float*, int64_t, int64_t, const double*, double*, cudaStream_t);
template void widen_scaled(const double*, int64_t, int64_t, const double*, double*, cudaStream_t);
template void narrow_scaled(const float*, int64_t, double, float*, cudaStream_t);
template void narrow_scaled(const double*, int64_t, double, float*, cudaStream_t);
template void largest_of_columns(const float*, int64_t, int64_t, double*, cudaStream_t);
template void largest_of_columns(const double*, int64_t, int64_t, double*, cudaStream_t);
template void squares_of_columns(const float*, int64_t, int64_t, const double*, double*, cudaStream_t);
template void squares_of_columns(const double*, int64_t, int64_t, const double*, double*, cudaStream_t);

}  // namespace lamina

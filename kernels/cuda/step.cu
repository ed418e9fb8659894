#include "kernels/cuda/rounding.cuh"
#include "kernels/cuda/step.hpp"

namespace lamina {
namespace {

constexpr int kThreads = 256;

__device__ float gated(float gate, float up) {
  // The accurate exponential: the kernel is bound by memory, and the check allows a few roundings only.
  return gate / (1.0f + expf(-gate)) * up;
}

// A number of 16 bits as layers read it.
template <HiddenType kType>
__device__ uint32_t narrow(float value) {
  return kType == HiddenType::f16 ? fp16_of(value) : bf16_of(value);
}

// Widths that are a multiple of 4, whose rows of 16 bytes are aligned.
template <HiddenType kType>
__global__ void __launch_bounds__(kThreads)
    gate_vectors(const float4* gate_up, void* hidden, int64_t tokens, int64_t width4) {
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    const float4* gates = gate_up + 2 * t * width4;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < width4;
         i += int64_t{gridDim.x} * kThreads) {
      const float4 g = __ldcs(gates + i), u = __ldcs(gates + width4 + i);
      const float4 h = {gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)};
      if constexpr (kType != HiddenType::f32)
        static_cast<uint2*>(hidden)[t * width4 + i] = {narrow<kType>(h.x) | narrow<kType>(h.y) << 16,
                                                       narrow<kType>(h.z) | narrow<kType>(h.w) << 16};
      else
        static_cast<float4*>(hidden)[t * width4 + i] = h;
    }
  }
}

template <HiddenType kType>
__global__ void __launch_bounds__(kThreads)
    gate_numbers(const float* gate_up, void* hidden, int64_t tokens, int64_t width) {
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    const float* gates = gate_up + 2 * t * width;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < width;
         i += int64_t{gridDim.x} * kThreads) {
      const float h = gated(gates[i], gates[width + i]);
      if constexpr (kType != HiddenType::f32)
        static_cast<uint16_t*>(hidden)[t * width + i] = static_cast<uint16_t>(narrow<kType>(h));
      else
        static_cast<float*>(hidden)[t * width + i] = h;
    }
  }
}

__global__ void hold_kernel(int64_t nanoseconds) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < static_cast<uint64_t>(nanoseconds));
}

template <HiddenType kType>
void launch_gate(const float* gate_up, void* hidden, int64_t tokens, int64_t width, cudaStream_t stream) {
  const bool vectors = width % 4 == 0 && reinterpret_cast<uintptr_t>(gate_up) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(hidden) % 16 == 0;
  const int64_t items = vectors ? width / 4 : width;
  const dim3 grid(static_cast<unsigned>((items + kThreads - 1) / kThreads),
                  static_cast<unsigned>(tokens < 65535 ? tokens : 65535));
  if (vectors)
    gate_vectors<kType>
        <<<grid, kThreads, 0, stream>>>(reinterpret_cast<const float4*>(gate_up), hidden, tokens, items);
  else
    gate_numbers<kType><<<grid, kThreads, 0, stream>>>(gate_up, hidden, tokens, width);
}

}  // namespace

void silu_gate(const float* gate_up, void* hidden, HiddenType type, int64_t tokens, int64_t width,
               cudaStream_t stream) {
  if (tokens * width == 0) return;
  switch (type) {
    case HiddenType::f32:
      return launch_gate<HiddenType::f32>(gate_up, hidden, tokens, width, stream);
    case HiddenType::bf16:
      return launch_gate<HiddenType::bf16>(gate_up, hidden, tokens, width, stream);
    case HiddenType::f16:
      return launch_gate<HiddenType::f16>(gate_up, hidden, tokens, width, stream);
  }
}

void hold(int64_t nanoseconds, cudaStream_t stream) {
  hold_kernel<<<1, 1, 0, stream>>>(nanoseconds);
}

void occupy(int multiprocessors, int64_t nanoseconds, int shared_bytes, cudaStream_t stream) {
  cudaFuncSetAttribute(hold_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  hold_kernel<<<static_cast<unsigned>(multiprocessors), 1024, shared_bytes, stream>>>(nanoseconds);
}

}  // namespace lamina

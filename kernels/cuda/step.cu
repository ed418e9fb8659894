#include "kernels/activations.hpp"
#include "kernels/cuda/step.hpp"

namespace lamina {
namespace {

constexpr int kThreads = 256;

__device__ float gated(float gate, float up) {
  // The accurate exponential: the kernel is bound by memory, and the check allows a few roundings only.
  return gate / (1.0f + expf(-gate)) * up;
}

// The bfloat16 activation rule (kernels/activations.hpp).
__device__ uint32_t bf16_of(float value) {
  const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
  if (fabsf(value) < kSmallestActivation) return 0;
  if (magnitude >= 0x7f7f8000u) return (bits >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0u)) & 0xffffu;
  return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

// Widths that are a multiple of 4, whose rows of 16 bytes are aligned.
__global__ void __launch_bounds__(kThreads)
    gate_vectors(const float4* gate_up, void* hidden, bool bf16, int64_t tokens, int64_t width4) {
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    const float4* gates = gate_up + 2 * t * width4;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < width4;
         i += int64_t{gridDim.x} * kThreads) {
      const float4 g = __ldcs(gates + i), u = __ldcs(gates + width4 + i);
      const float4 h = {gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)};
      if (bf16)
        static_cast<uint2*>(hidden)[t * width4 + i] = {bf16_of(h.x) | bf16_of(h.y) << 16,
                                                       bf16_of(h.z) | bf16_of(h.w) << 16};
      else
        static_cast<float4*>(hidden)[t * width4 + i] = h;
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    gate_numbers(const float* gate_up, void* hidden, bool bf16, int64_t tokens, int64_t width) {
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) {
    const float* gates = gate_up + 2 * t * width;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < width;
         i += int64_t{gridDim.x} * kThreads) {
      const float h = gated(gates[i], gates[width + i]);
      if (bf16)
        static_cast<uint16_t*>(hidden)[t * width + i] = static_cast<uint16_t>(bf16_of(h));
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

}  // namespace

void silu_gate(const float* gate_up, void* hidden, bool bf16, int64_t tokens, int64_t width,
               cudaStream_t stream) {
  if (tokens * width == 0) return;
  const bool vectors = width % 4 == 0 && reinterpret_cast<uintptr_t>(gate_up) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(hidden) % 16 == 0;
  const int64_t items = vectors ? width / 4 : width;
  const dim3 grid(static_cast<unsigned>((items + kThreads - 1) / kThreads),
                  static_cast<unsigned>(tokens < 65535 ? tokens : 65535));
  if (vectors)
    gate_vectors<<<grid, kThreads, 0, stream>>>(reinterpret_cast<const float4*>(gate_up), hidden, bf16,
                                                tokens, items);
  else
    gate_numbers<<<grid, kThreads, 0, stream>>>(gate_up, hidden, bf16, tokens, width);
}

void hold(int64_t nanoseconds, cudaStream_t stream) {
  hold_kernel<<<1, 1, 0, stream>>>(nanoseconds);
}

}  // namespace lamina

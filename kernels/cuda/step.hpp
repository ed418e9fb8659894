// What a timed step needs beside its layers: the gate between an MLP's projections, and a pause before the
// clock starts.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace lamina {

// What the projection after the gate reads.
enum class HiddenType { f32, bf16, f16 };

// hidden = silu(gate)·up of gate_up [tokens × 2·width]; `hidden` [tokens × width] is rounded by its type's
// activation rule.
void silu_gate(const float* gate_up, void* hidden, HiddenType type, int64_t tokens, int64_t width,
               cudaStream_t stream);
// Keeps the stream busy for so long, while the host queues what comes after.
void hold(int64_t nanoseconds, cudaStream_t stream);
// The same, and keeps so many multiprocessors from other work.
void occupy(int multiprocessors, int64_t nanoseconds, int shared_bytes, cudaStream_t stream);

}  // namespace lamina

// A layer: one packed matrix on one device, ready to multiply.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/device.hpp"

namespace lamina {

// What one forward costs. Bytes count what must move at least once: weights as packed, activations in and
// out.
struct Cost {
  double operations = 0;  // executed, 2 per multiply-add
  bool integer = false;   // the multiply-adds are int8, not float32
  double read_bytes = 0;
  double write_bytes = 0;
};

// Y[M×N] = X[M×K]·W[N×K]ᵀ, row-major, contiguous float32 on the CPU.
class Layer {
 public:
  virtual ~Layer() = default;
  // No allocation, no I/O. `tokens` is at most the max_tokens the layer was made with. Overwrites all of y; y
  // never aliases x. Writes no byte outside y.
  virtual void forward(const float* x, float* y, int64_t tokens, Stream& stream) = 0;
  virtual Cost cost(int64_t tokens) const = 0;
  // As packed, all metadata (scales, masks, indices) included.
  virtual int64_t weight_bytes() const = 0;
};

}  // namespace lamina

// A layer: one packed matrix on one device, ready to multiply.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/arithmetic.hpp"
#include "kernels/device.hpp"

namespace lamina {

// A number for each kind of arithmetic.
class ByArithmetic {
 public:
  ByArithmetic() = default;
  ByArithmetic(Arithmetic kind, double value) { (*this)[kind] = value; }
  double& operator[](Arithmetic kind) { return values_[static_cast<size_t>(kind)]; }
  double operator[](Arithmetic kind) const { return values_[static_cast<size_t>(kind)]; }
  double total() const {
    double sum = 0;
    for (double value : values_) sum += value;
    return sum;
  }
  ByArithmetic& operator+=(const ByArithmetic& other) {
    for (Arithmetic kind : kArithmetics) (*this)[kind] += other[kind];
    return *this;
  }

 private:
  std::array<double, kArithmetics.size()> values_{};
};

// What one forward costs. Bytes count what must move at least once: weights as packed, activations in and
// out.
struct Cost {
  ByArithmetic operations;  // executed, 2 per multiply-add
  double read_bytes = 0;
  double write_bytes = 0;

  Cost& operator+=(const Cost& other) {  // one after the other
    operations += other.operations;
    read_bytes += other.read_bytes;
    write_bytes += other.write_bytes;
    return *this;
  }
};

// What a kernel reads activations as. On the CPU float32. On a GPU most take bfloat16 (for float16 weights
// float16), as the layer before would hand them over: rounded by the bf16 (f16) rule (activations.hpp)
// outside the timed region, before any rule of the leaf's own.
enum class InputType { f32, bf16, f16 };
inline int64_t bytes_of(InputType type) {
  return type == InputType::f32 ? 4 : 2;
}
// The number that such a kernel reads in place of this one.
float rounded_input(float value, InputType type);

// Y[M×N] = X[M×K]·W[N×K]ᵀ, row-major and contiguous, in the memory of the layer's device. Y is float32: the
// check holds it to sums in float32, and what a wider y costs a GPU at few tokens is nothing. Where ranks sum
// their outputs in bfloat16 it may be that: forward_bf16().
class Layer {
 public:
  virtual ~Layer() = default;
  // x points to numbers of the kernel's InputType, whatever its own type says.
  // No allocation, no I/O. `tokens` is at most the max_tokens the layer was made with. Overwrites all of y; y
  // never aliases x. Writes no byte outside y.
  virtual void forward(const float* x, float* y, int64_t tokens, Stream& stream) = 0;
  // This layer and then `next`, whose in_features are this one's out_features: middle [tokens × out_features]
  // is this layer's y and next's x. The numbers of two forwards; kernels that share threads save the meeting
  // between them.
  virtual void forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                            Stream& stream) {
    forward(x, middle, tokens, stream);
    next.forward(middle, y, tokens, stream);
  }
  // forward() on float32 numbers that a layer before gave, rounded here where the kernel reads others.
  virtual void forward_rounding(const float* x, float* y, int64_t tokens, Stream& stream) {
    forward(x, y, tokens, stream);
  }
  // forward() whose y is bfloat16, each sum of K products in float32 rounded once, of a kernel that can write
  // it so. False, with nothing done, of others.
  virtual bool forward_bf16(const float* /*x*/, void* /*y*/, int64_t /*tokens*/, Stream& /*stream*/) {
    return false;
  }
  virtual Cost cost(int64_t tokens) const = 0;
  // Which of a kernel's ways forward() took for so many tokens, where it has several; else empty.
  virtual std::string way(int64_t /*tokens*/) const { return ""; }
  // Whether that way multiplied quantized weights, w = s·(q − z), each rounded to bfloat16 first. The check's
  // reference then rounds them too.
  virtual bool rounds_weights(int64_t /*tokens*/) const { return false; }
  // As packed, all metadata (scales, masks, indices) included.
  virtual int64_t weight_bytes() const = 0;
};

// Host numbers in the device's memory as a kernel's input. Throws DeviceError, std::bad_alloc.
Buffer place_activations(Device& device, const float* x, int64_t count, InputType type);
// And back: `count` numbers of a type in the device's memory, once it is through. Throws likewise.
std::vector<float> fetch_activations(Device& device, const void* from, int64_t count, InputType type);

}  // namespace lamina

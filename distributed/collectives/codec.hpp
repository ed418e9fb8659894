// Numbers in few bits, for collectives that send less: blocks of elements that share a scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "distributed/communicator.hpp"
#include "kernels/device.hpp"

namespace lamina {

enum class Payload { int8, fp8, int4 };
std::string to_string(Payload payload);

// An image of `count` elements is their blocks' scales (float32), then their codes; the last block is filled
// up with zeros. A block's scale is its largest magnitude over the largest code, so every element is off by
// at most half a step of it (int8, int4), or by 2⁻⁴ of itself (fp8, e4m3) and 2⁻¹⁰ of a scale. Memory is the
// device's; calls put their work on the stream.
class Codec {
 public:
  virtual ~Codec() = default;
  virtual Payload payload() const = 0;
  virtual int64_t block() const = 0;  // elements
  int64_t image_bytes(int64_t count) const;

  // What is encoded is in[i] + residual[i], where there is a residual [count], which then holds what was
  // lost: error feedback (Seide et al. 2014, "1-bit stochastic gradient descent").
  virtual void encode(const void* in, DType dtype, int64_t count, float* residual, std::byte* image,
                      Stream& stream) = 0;
  // The sum of `images`, `stride` bytes apart, each of `count` elements, encoded anew.
  virtual void sum(const std::byte* images, int number, int64_t stride, int64_t count, float* residual,
                   std::byte* image, Stream& stream) = 0;
  virtual void decode(const std::byte* image, int64_t count, void* out, DType dtype, Stream& stream) = 0;
};

// A GPU's; null where CUDA is not built.
std::unique_ptr<Codec> make_cuda_codec(Payload payload, int64_t block);
// `block`: a multiple of 32 from 32 to 1024. Null where the device has none.
std::unique_ptr<Codec> make_codec(Payload payload, int64_t block, const std::string& device);

}  // namespace lamina

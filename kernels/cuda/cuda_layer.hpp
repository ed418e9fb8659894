// What layers on a GPU share: their sizes and cost, rounding between the factors of a chain, and scratch.
#pragma once

#include <memory>

#include "kernels/cuda/decode.hpp"
#include "kernels/registry.hpp"

namespace lamina {

class CudaLayer : public Layer {
 public:
  CudaLayer(const Leaf& leaf, const LayerOptions& options, InputType input, Arithmetic arithmetic);

  // Rounds `middle` to what `next`, another CudaLayer, reads.
  void forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                    Stream& stream) override;
  void forward_rounding(const float* x, float* y, int64_t tokens, Stream& stream) override;
  Cost cost(int64_t tokens) const override;

 protected:
  // forward() that writes y by the bf16 rule too, where a layer can in the same kernel; false where not.
  virtual bool forward_rounded(const float* /*x*/, float* /*y*/, void* /*rounded*/, int64_t /*tokens*/,
                               Stream& /*stream*/) {
    return false;
  }
  // Of its multiply-adds, how many are executed.
  virtual double work_share() const { return 1; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  // Device memory for scratch, shared with the layer's copies; in the order that every copy asks in.
  std::shared_ptr<Buffer> scratch(int64_t bytes);

 private:
  int64_t rows_, cols_;
  InputType input_;
  Arithmetic arithmetic_;
  Workspace* workspace_;
  std::shared_ptr<Buffer> rounded_;  // x of a factor that follows another; [max_tokens × cols]
};

// decode_most_tokens(); throws DeviceError where these weights do not fit the GPU's shared memory at all.
int64_t decode_tokens(DecodeFormat format, const DecodeLayout& layout);
// The device's memory with these host bytes in it.
Buffer to_device(const void* data, int64_t bytes);
// Numbers that are bfloat16 already, as bfloat16 [rows × cols]; in pieces, so that it takes little more
// memory.
Buffer upload_bf16(const float* values, int64_t rows, int64_t cols);

}  // namespace lamina

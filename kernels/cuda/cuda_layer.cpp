#include "kernels/cuda/cuda_layer.hpp"

#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {

CudaLayer::CudaLayer(const Leaf& leaf, const LayerOptions& options, InputType input, Arithmetic arithmetic)
    : rows_(leaf.rows),
      cols_(leaf.cols),
      input_(input),
      arithmetic_(arithmetic),
      workspace_(options.workspace) {
  check_leaf(leaf);
  cuda_properties();  // throws where there is no GPU
  if (workspace_ != nullptr) workspace_->rewind();
  if (input == InputType::bf16) rounded_ = scratch(options.max_tokens * cols_ * 2);
}

std::shared_ptr<Buffer> CudaLayer::scratch(int64_t bytes) {
  Device& device = *cuda_device();
  if (workspace_ != nullptr) return workspace_->take(bytes, device);
  return std::make_shared<Buffer>(device.allocate(bytes));
}

void CudaLayer::forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                             Stream& stream) {
  forward(x, middle, tokens, stream);
  next.forward_rounding(middle, y, tokens, stream);
}

void CudaLayer::forward_rounding(const float* x, float* y, int64_t tokens, Stream& stream) {
  const float* in = x;
  if (input_ == InputType::bf16) {
    round_bf16(x, tokens * cols_, rounded_->data(), cuda_stream(stream));
    check_launch("rounding activations");
    in = rounded_->as<float>();
  }
  forward(in, y, tokens, stream);
}

Cost CudaLayer::cost(int64_t tokens) const {
  const auto m = static_cast<double>(tokens);
  return {.operations = {arithmetic_, 2 * m * static_cast<double>(rows_) * static_cast<double>(cols_)},
          .read_bytes = static_cast<double>(weight_bytes()) +
                        m * static_cast<double>(cols_) * static_cast<double>(bytes_of(input_)),
          .write_bytes = 4 * m * static_cast<double>(rows_)};
}

Buffer to_device(const void* data, int64_t bytes) {
  Device& device = *cuda_device();
  Buffer buffer = device.allocate(bytes);
  device.upload(buffer.data(), data, bytes);
  return buffer;
}

}  // namespace lamina

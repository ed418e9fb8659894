#include "kernels/cuda/cuda_layer.hpp"

#include <fmt/format.h>

#include <algorithm>

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
  if (input != InputType::f32) rounded_ = scratch(options.max_tokens * cols_ * 2);
}

std::shared_ptr<Buffer> CudaLayer::scratch(int64_t bytes) {
  Device& device = *cuda_device();
  if (workspace_ != nullptr) return workspace_->take(bytes, device);
  return std::make_shared<Buffer>(device.allocate(bytes));
}

void CudaLayer::forward_then(Layer& next, const float* x, float* middle, float* y, int64_t tokens,
                             Stream& stream) {
  auto& follower = dynamic_cast<CudaLayer&>(next);
  if (follower.input_ == InputType::bf16 &&
      forward_rounded(x, middle, follower.rounded_->data(), tokens, stream))
    return next.forward(follower.rounded_->as<float>(), y, tokens, stream);
  forward(x, middle, tokens, stream);
  next.forward_rounding(middle, y, tokens, stream);
}

void CudaLayer::forward_rounding(const float* x, float* y, int64_t tokens, Stream& stream) {
  const float* in = x;
  if (input_ != InputType::f32) {
    round_activations(x, tokens * cols_, input_ == InputType::f16, rounded_->data(), cuda_stream(stream));
    check_launch("rounding activations");
    in = rounded_->as<float>();
  }
  forward(in, y, tokens, stream);
}

Cost CudaLayer::cost(int64_t tokens) const {
  const auto m = static_cast<double>(tokens);
  return {.operations = {arithmetic_,
                         work_share() * 2 * m * static_cast<double>(rows_) * static_cast<double>(cols_)},
          .read_bytes = static_cast<double>(weight_bytes()) +
                        m * static_cast<double>(cols_) * static_cast<double>(bytes_of(input_)),
          .write_bytes = 4 * m * static_cast<double>(rows_)};
}

int64_t decode_tokens(DecodeFormat format, const DecodeLayout& layout) {
  const int64_t most = decode_most_tokens(format, layout);
  if (most == 0)
    throw DeviceError(fmt::format(
        "cuda: chunks of {} bytes do not fit the {} KiB of shared memory that this GPU gives a block "
        "of threads; take more sparsity, another pattern or another GPU",
        layout.chunk_bytes, cuda_properties().shared_bytes / 1024));
  return most;
}

Buffer to_device(const void* data, int64_t bytes) {
  Device& device = *cuda_device();
  Buffer buffer = device.allocate(bytes);
  device.upload(buffer.data(), data, bytes);
  return buffer;
}

Buffer upload_bf16(const float* values, int64_t rows, int64_t cols) {
  constexpr int64_t kStagedBytes = int64_t{256} << 20;
  Device& device = *cuda_device();
  Buffer narrow = device.allocate(rows * cols * 2);
  const int64_t step = std::max<int64_t>(kStagedBytes / (4 * std::max<int64_t>(cols, 1)), 1);
  for (int64_t row = 0; row < rows; row += step) {
    const int64_t count = std::min(step, rows - row);
    const Buffer staged = to_device(values + row * cols, count * cols * 4);
    narrow_bf16(staged.as<float>(), count, cols, cols, narrow.data() + row * cols * 2,
                cuda_stream(device.stream(1)));
    check_launch("packing bfloat16 weights");
    device.synchronize();
  }
  return narrow;
}

}  // namespace lamina

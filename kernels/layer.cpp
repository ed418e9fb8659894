#include "kernels/layer.hpp"

#include <bit>
#include <vector>

#include "kernels/small_floats.hpp"

namespace lamina {

float rounded_input(float value, InputType type) {
  switch (type) {
    case InputType::bf16:
      return bf16_activation(value);
    case InputType::f16:
      return to_float16(value);
    default:
      return value;
  }
}

Buffer place_activations(Device& device, const float* x, int64_t count, InputType type) {
  Buffer placed = device.allocate(count * bytes_of(type));
  if (type == InputType::f32) {
    device.upload(placed.data(), x, placed.bytes());
    return placed;
  }
  std::vector<uint16_t> rounded(static_cast<size_t>(count));
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i)
    rounded[static_cast<size_t>(i)] =
        type == InputType::f16 ? finite_f16_of_float(x[i])
                               : static_cast<uint16_t>(std::bit_cast<uint32_t>(bf16_activation(x[i])) >> 16);
  device.upload(placed.data(), rounded.data(), placed.bytes());
  return placed;
}

std::vector<float> fetch_activations(Device& device, const void* from, int64_t count, InputType type) {
  std::vector<float> values(static_cast<size_t>(count));
  device.synchronize();
  if (type == InputType::f32) {
    device.download(values.data(), from, 4 * count);
    return values;
  }
  std::vector<uint16_t> narrow(values.size());
  device.download(narrow.data(), from, 2 * count);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = type == InputType::f16 ? float_of_f16(narrow[i]) : float_of_bf16(narrow[i]);
  return values;
}

}  // namespace lamina

#include "kernels/cpu/silu.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/reference.hpp"
#include "kernels/small_floats.hpp"

namespace lamina {
namespace {

TEST(SiluGate, AgreesWithFloat64OverItsRange) {
  for (int64_t width : {1, 7, 1000, 3001}) {
    const int64_t tokens = 3;
    std::vector<float> in(static_cast<size_t>(tokens * 2 * width)),
        out(static_cast<size_t>(tokens * width), NAN);
    for (size_t i = 0; i < in.size(); ++i)
      in[i] = static_cast<float>(40.0 * std::sin(0.37 * static_cast<double>(i)));
    silu_gate(in.data(), out.data(), tokens, width, 2);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < width; ++i) {
        const double gate = in[static_cast<size_t>(t * 2 * width + i)],
                     up = in[static_cast<size_t>(t * 2 * width + width + i)];
        const double expected = gate / (1 + std::exp(-gate)) * up;
        EXPECT_NEAR(out[static_cast<size_t>(t * width + i)], expected, 4e-6 * std::abs(expected) + 1e-30)
            << gate;
      }
  }
}

TEST(SiluGate, IsFiniteAtTheEnds) {
  const float in[] = {-1e30f, -200, -88, 0, 88, 200, 1e18f, 1, 1, 1, 1, 1, 1, 1};
  float out[7];
  silu_gate(in, out, 1, 7, 1);
  for (float value : out) EXPECT_TRUE(std::isfinite(value));
  EXPECT_EQ(out[3], 0.0f);
  EXPECT_FLOAT_EQ(out[5], 200.0f);
}

// As the next layer reads it, in each type; odd widths among them.
TEST(SiluGate, OfGpusAgreesWithFloat64) {
  Device* device = find_device("cuda");
  if (device == nullptr) GTEST_SKIP() << "no GPU: " << cuda_device_info().reason;
  Stream stream = device->stream(1);
  const int64_t tokens = 3;
  for (int64_t width : {1, 7, 1000, 3001}) {
    std::vector<float> in(static_cast<size_t>(tokens * 2 * width));
    for (size_t i = 0; i < in.size(); ++i)
      in[i] = static_cast<float>(40.0 * std::sin(0.37 * static_cast<double>(i)));
    Buffer gate_up = device->allocate(4 * tokens * 2 * width);
    device->upload(gate_up.data(), in.data(), gate_up.bytes());
    for (InputType type : {InputType::f32, InputType::bf16, InputType::f16}) {
      Buffer hidden = device->allocate(tokens * width * bytes_of(type));
      cuda_silu_gate(gate_up.as<float>(), hidden.data(), type, tokens, width, stream);
      device->synchronize();
      std::vector<std::byte> out(static_cast<size_t>(hidden.bytes()));
      device->download(out.data(), hidden.data(), hidden.bytes());
      const double rounding = type == InputType::bf16 ? 0x1.01p-8 : type == InputType::f16 ? 0x1.01p-11 : 0;
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < width; ++i) {
          const double gate = in[static_cast<size_t>(t * 2 * width + i)],
                       up = in[static_cast<size_t>(t * 2 * width + width + i)],
                       expected = silu_gate_reference(gate, up);
          const size_t at = static_cast<size_t>(t * width + i);
          const float got =
              type == InputType::bf16  ? float_of_bf16(reinterpret_cast<const uint16_t*>(out.data())[at])
              : type == InputType::f16 ? float_of_f16(reinterpret_cast<const uint16_t*>(out.data())[at])
                                       : reinterpret_cast<const float*>(out.data())[at];
          // The last: half of float16's least number.
          EXPECT_NEAR(got, expected, 4e-6 * std::abs(gate * up) + rounding * std::abs(expected) + 0x1p-25)
              << gate;
        }
    }
  }
}

}  // namespace
}  // namespace lamina

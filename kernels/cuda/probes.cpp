#include "kernels/cuda/probes.hpp"

#include <memory>
#include <utility>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/matmul.hpp"

namespace lamina {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 30;  // many times any L2
constexpr int64_t kEdge = 8192, kEdgeF32 = 4096;  // of the square products whose rate is the limit

// Square, random, by cuBLASLt; its first run, here, finds the algorithm.
DeviceProbe product_probe(Device& device, Arithmetic arithmetic, int64_t edge, int64_t bytes_each,
                          const MatmulTypes& types) {
  const int64_t in = edge * edge * bytes_each;
  auto operands = std::make_shared<Buffer>(device.allocate(2 * in));
  auto result = std::make_shared<Buffer>(device.allocate(edge * edge * 4));
  fill_random(operands->data(), types.in == CUDA_R_8I ? 0 : static_cast<int>(8 * bytes_each), 2 * in, 1,
              cuda_stream(device.stream(1)));
  check_launch("making operands");
  DeviceProbe probe;
  probe.kind = DeviceProbe::Kind::compute;
  probe.arithmetic = arithmetic;
  probe.work = 2.0 * static_cast<double>(edge) * static_cast<double>(edge) * static_cast<double>(edge);
  probe.run = [=](Stream& stream) {
    matmul(types, edge, edge, edge, operands->data(), operands->data() + in, result->data(), stream);
  };
  Stream stream = device.stream(1);
  probe.run(stream);
  return probe;
}

}  // namespace

std::vector<DeviceProbe> cuda_probes(Device& device) {
  auto buffer = std::make_shared<Buffer>(device.allocate(2 * kReadBytes));
  fill_random(buffer->data(), 32, 2 * kReadBytes, 2, cuda_stream(device.stream(1)));
  check_launch("making what is read");
  std::byte* const half = buffer->data() + kReadBytes;
  std::vector<DeviceProbe> probes(3);
  probes[0].kind = DeviceProbe::Kind::read;
  probes[0].work = 2.0 * static_cast<double>(kReadBytes);
  probes[0].run = [=](Stream& stream) {
    read_all(buffer->data(), 2 * kReadBytes, buffer->as<float>(), cuda_stream(stream));
  };
  probes[1].kind = DeviceProbe::Kind::copy;
  probes[1].work = 2.0 * static_cast<double>(kReadBytes);
  probes[1].run = [=](Stream& stream) { copy_all(half, buffer->data(), kReadBytes, cuda_stream(stream)); };
  probes[2].kind = DeviceProbe::Kind::launch;
  probes[2].work = 1;
  probes[2].run = [](Stream& stream) { do_nothing(cuda_stream(stream)); };
  probes.push_back(product_probe(device, Arithmetic::f32, kEdgeF32, 4,
                                 {CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}));
  probes.push_back(product_probe(device, Arithmetic::bf16, kEdge, 2, {}));
  probes.push_back(product_probe(device, Arithmetic::int8, kEdge, 1,
                                 {CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32I, CUDA_R_32I}));
  if (cuda_properties().capability >= 89)
    probes.push_back(product_probe(device, Arithmetic::fp8, kEdge, 1,
                                   {CUDA_R_8F_E4M3, CUDA_R_32F, CUBLAS_COMPUTE_32F, CUDA_R_32F}));
  device.synchronize();
  return probes;
}

}  // namespace lamina

// MPI for a GPU's memory: every message goes by way of the host's, pinned so that the GPU copies at full
// speed. For MPI libraries that know no GPUs (Debian's Open MPI), and as the measure of what NCCL saves.
#include <fmt/format.h>

#include <stdexcept>

#include "distributed/forwarding_transport.hpp"
#include "distributed/transports.hpp"
#include "kernels/buffer.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {
namespace {

Buffer pinned(int64_t bytes) {
  void* data = nullptr;
  check_cuda(cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocDefault),
             "allocating pinned memory");
  return {data, bytes, [](void* memory, int64_t) { cudaFreeHost(memory); }};
}

class StagedTransport final : public ForwardingTransport {
 public:
  explicit StagedTransport(std::unique_ptr<Transport> host) : ForwardingTransport(std::move(host)) {}

  std::string name() const override { return inner().name() + "-staged"; }
  bool capturable() const override { return false; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override {
    const int64_t bytes = count * dtype_bytes(dtype);
    staged(in, bytes, out, bytes, stream,
           [&](Stream& host) { inner().all_reduce(in_.data(), out_.data(), count, dtype, op, host); });
  }
  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                      Stream& stream) override {
    const int64_t bytes = count * dtype_bytes(dtype);
    staged(in, bytes * size(), out, bytes, stream,
           [&](Stream& host) { inner().reduce_scatter(in_.data(), out_.data(), count, dtype, op, host); });
  }
  void all_gather(const void* in, void* out, int64_t bytes, Stream& stream) override {
    staged(in, bytes, out, bytes * size(), stream,
           [&](Stream& host) { inner().all_gather(in_.data(), out_.data(), bytes, host); });
  }
  void broadcast(const void* in, void* out, int64_t bytes, int root, Stream& stream) override {
    staged(in, bytes, out, bytes, stream,
           [&](Stream& host) { inner().broadcast(in_.data(), out_.data(), bytes, root, host); });
  }
  void all_to_all(const void* in, void* out, int64_t bytes, Stream& stream) override {
    staged(in, bytes * size(), out, bytes * size(), stream,
           [&](Stream& host) { inner().all_to_all(in_.data(), out_.data(), bytes, host); });
  }
  void send_recv(const void* in, void* out, int64_t bytes, Stream& stream) override {
    staged(in, bytes, out, bytes, stream,
           [&](Stream& host) { inner().send_recv(in_.data(), out_.data(), bytes, host); });
  }

 private:
  template <class Work>
  void staged(const void* in, int64_t in_bytes, void* out, int64_t out_bytes, Stream& stream, Work&& work) {
    if (in_bytes == 0) return;
    if (in_.bytes() < in_bytes) in_ = pinned(in_bytes);
    if (out_.bytes() < out_bytes) out_ = pinned(out_bytes);
    const cudaStream_t on = cuda_stream(stream);
    check_cuda(cudaMemcpyAsync(in_.data(), in, static_cast<size_t>(in_bytes), cudaMemcpyDeviceToHost, on),
               "copying from the GPU");
    check_cuda(cudaStreamSynchronize(on), "waiting for the GPU");
    Stream host{.threads = stream.threads};
    work(host);
    check_cuda(cudaMemcpyAsync(out, out_.data(), static_cast<size_t>(out_bytes), cudaMemcpyHostToDevice, on),
               "copying to the GPU");
    check_cuda(cudaStreamSynchronize(on), "waiting for the GPU");  // the next call may be on another stream
  }

  Buffer in_, out_;
};

}  // namespace

TransportType staged_mpi_transport() {
  TransportType type;
  type.name = "mpi";
  type.device = "cuda";
  type.help = "MPI by way of pinned host memory (mpi-staged)";
  const DeviceInfo& info = cuda_device_info();
  const TransportType host = mpi_transport();
  type.absent = info.available ? host.absent : info.reason;
  type.make = [host](Communicator& comm, const TransportOptions& options) -> std::unique_ptr<Transport> {
    return std::make_unique<StagedTransport>(host.make(comm, options));
  };
  return type;
}

}  // namespace lamina

// The transport of one rank alone: every collective is a copy in the host's memory.
#include <fmt/format.h>

#include <cstring>

#include "distributed/transports.hpp"

namespace lamina {
namespace {

class SelfTransport final : public Transport {
 public:
  std::string name() const override { return "self"; }
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp, Stream&) override {
    copy(in, out, count * dtype_bytes(dtype));
  }
  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp, Stream&) override {
    copy(in, out, count * dtype_bytes(dtype));
  }
  void all_gather(const void* in, void* out, int64_t bytes, Stream&) override { copy(in, out, bytes); }
  void broadcast(const void* in, void* out, int64_t bytes, int, Stream&) override { copy(in, out, bytes); }
  void all_to_all(const void* in, void* out, int64_t bytes, Stream&) override { copy(in, out, bytes); }
  void send_recv(const void* in, void* out, int64_t bytes, Stream&) override { copy(in, out, bytes); }

 private:
  static void copy(const void* in, void* out, int64_t bytes) {
    if (in != out && bytes > 0) std::memcpy(out, in, static_cast<size_t>(bytes));
  }
};

}  // namespace

TransportType self_transport() {
  TransportType type;
  type.name = "self";
  type.device = "cpu";
  type.help = "one rank alone: copies";
  type.make = [](Communicator& comm, const TransportOptions&) -> std::unique_ptr<Transport> {
    if (comm.size() != 1)
      throw AgreedError(fmt::format("communicator self: expected one rank, found {}", comm.size()));
    return std::make_unique<SelfTransport>();
  };
  return type;
}

}  // namespace lamina

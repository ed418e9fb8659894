// The transport over MPI's own collectives, for the host's memory.
#include <fmt/format.h>
#include <mpi.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "distributed/mpi/chunks.hpp"
#include "distributed/mpi/group.hpp"
#include "distributed/transports.hpp"

namespace lamina {
namespace {

constexpr int kExchangeTag = 3;

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(MpiGroup& group) : group_(group) {}

  std::string name() const override { return "mpi"; }
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op, Stream&) override {
    group_.all_reduce(in, out, count, dtype, op);
  }

  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op, Stream&) override {
    const int64_t bytes = dtype_bytes(dtype);
    // MPI's own form in place would leave the result elsewhere, and others it may not alias.
    const bool aside = out == at(in, rank() * count * bytes) && size() > 1;
    if (aside) scratch_.resize(static_cast<size_t>(count * bytes));
    std::byte* to = aside ? scratch_.data() : at(out, 0);
    if (count <= kMaxMpiCount / size()) {
      check_mpi(MPI_Reduce_scatter_block(in, to, static_cast<int>(count), group_.numbers().type(dtype),
                                         group_.numbers().op(dtype, op), group_.comm()),
                "MPI_Reduce_scatter_block");
    } else {
      for (int root = 0; root < size(); ++root)
        for_each_chunk(count, [&](int64_t begin, int length) {
          check_mpi(
              MPI_Reduce(at(in, (root * count + begin) * bytes), to + begin * bytes, length,
                         group_.numbers().type(dtype), group_.numbers().op(dtype, op), root, group_.comm()),
              "MPI_Reduce");
        });
    }
    if (aside && count > 0) std::memcpy(out, to, static_cast<size_t>(count * bytes));
  }

  void all_gather(const void* in, void* out, int64_t bytes, Stream&) override {
    std::byte* own = at(out, rank() * bytes);
    if (bytes <= kMaxMpiCount / size()) {
      check_mpi(MPI_Allgather(in == own ? MPI_IN_PLACE : in, static_cast<int>(bytes), MPI_BYTE, out,
                              static_cast<int>(bytes), MPI_BYTE, group_.comm()),
                "MPI_Allgather");
      return;
    }
    if (in != own && bytes > 0) std::memcpy(own, in, static_cast<size_t>(bytes));
    for (int root = 0; root < size(); ++root) group_.broadcast(at(out, root * bytes), bytes, root);
  }

  void broadcast(const void* in, void* out, int64_t bytes, int root, Stream&) override {
    if (rank() == root && in != out && bytes > 0) std::memcpy(out, in, static_cast<size_t>(bytes));
    group_.broadcast(out, bytes, root);
  }

  void all_to_all(const void* in, void* out, int64_t bytes, Stream&) override {
    if (bytes <= kMaxMpiCount / size()) {
      check_mpi(MPI_Alltoall(in, static_cast<int>(bytes), MPI_BYTE, out, static_cast<int>(bytes), MPI_BYTE,
                             group_.comm()),
                "MPI_Alltoall");
      return;
    }
    for (int step = 0; step < size(); ++step) {
      const int to = (rank() + step) % size(), from = (rank() - step + size()) % size();
      exchange(at(in, to * bytes), to, at(out, from * bytes), from, bytes);
    }
  }

  void send_recv(const void* in, void* out, int64_t bytes, Stream&) override {
    exchange(at(in, 0), (rank() + 1) % size(), at(out, 0), (rank() - 1 + size()) % size(), bytes);
  }

 private:
  static std::byte* at(void* base, int64_t offset) { return static_cast<std::byte*>(base) + offset; }
  static const std::byte* at(const void* base, int64_t offset) {
    return static_cast<const std::byte*>(base) + offset;
  }

  void exchange(const std::byte* out, int to, std::byte* in, int from, int64_t bytes) {
    for_each_chunk(bytes, [&](int64_t begin, int length) {
      check_mpi(MPI_Sendrecv(out + begin, length, MPI_BYTE, to, kExchangeTag, in + begin, length, MPI_BYTE,
                             from, kExchangeTag, group_.comm(), MPI_STATUS_IGNORE),
                "MPI_Sendrecv");
    });
  }

  MpiGroup& group_;
  std::vector<std::byte> scratch_;  // of reduce_scatter in place
};

}  // namespace

TransportType mpi_transport() {
  TransportType type;
  type.name = "mpi";
  type.device = "cpu";
  type.help = "MPI's own collectives: " + Launch::library();
  type.make = [](Communicator& comm, const TransportOptions&) -> std::unique_ptr<Transport> {
    return std::make_unique<MpiTransport>(mpi_group(comm));
  };
  return type;
}

}  // namespace lamina

// One process alone: every collective is a copy.
#include <cstring>
#include <stdexcept>

#include "distributed/communicator.hpp"

namespace lamina {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  std::string name() const override { return "self"; }
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int nodes() const override { return 1; }
  int local_size() const override { return 1; }
  int local_rank() const override { return 0; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp) override {
    if (in != out && count > 0) std::memcpy(out, in, static_cast<size_t>(count * dtype_bytes(dtype)));
  }
  void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) override {
    if (bytes.size() != 1)
      throw std::invalid_argument("all_gather: expected one size, alone in this communicator");
    if (in != out && bytes[0] > 0) std::memcpy(out, in, static_cast<size_t>(bytes[0]));
  }
  void broadcast(void*, int64_t, int) override {}
  using Communicator::all_to_all;
  void all_to_all(const Messages& send, Messages& received) override {
    if (send.size() != 1)
      throw std::invalid_argument("all_to_all: expected one message, alone in this communicator");
    received = send;
  }
  void barrier() override {}
  void start_together() override {}
  void rest() override {}
  std::unique_ptr<Communicator> subset(int ranks) override {
    if (ranks != 1) throw std::invalid_argument("subset: expected 1 rank, there is one alone");
    return make_self_communicator();
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace lamina

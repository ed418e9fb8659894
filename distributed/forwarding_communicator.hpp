// The base of communicators that change a few calls of another.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"

namespace lamina {

// Does as `inner` does, which outlives it.
class ForwardingCommunicator : public Communicator {
 public:
  explicit ForwardingCommunicator(Communicator& inner) : inner_(inner) {}
  std::string name() const override { return inner_.name(); }
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  int nodes() const override { return inner_.nodes(); }
  int local_size() const override { return inner_.local_size(); }
  int local_rank() const override { return inner_.local_rank(); }
  int mpi_handle() const override { return inner_.mpi_handle(); }
  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) override {
    inner_.all_reduce(in, out, count, dtype, op);
  }
  void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) override {
    inner_.all_gather(in, out, bytes);
  }
  void broadcast(void* data, int64_t bytes, int root) override { inner_.broadcast(data, bytes, root); }
  using Communicator::all_to_all;
  void all_to_all(const Messages& send, Messages& received) override { inner_.all_to_all(send, received); }
  void barrier() override { inner_.barrier(); }
  void start_together() override { inner_.start_together(); }
  void rest() override { inner_.rest(); }
  void trim() override { inner_.trim(); }
  std::unique_ptr<Communicator> subset(int ranks) override { return inner_.subset(ranks); }

 protected:
  Communicator& inner_;
};

}  // namespace lamina

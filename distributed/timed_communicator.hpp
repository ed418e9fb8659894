// What a piece of work costs in collectives: seconds and bytes.
#pragma once

#include <chrono>
#include <vector>

#include "distributed/forwarding_communicator.hpp"

namespace lamina {

// Forwards to another communicator and counts the seconds its collectives take, and the bytes that this rank
// has of what they reduce, gather, broadcast and exchange.
class TimedCommunicator final : public ForwardingCommunicator {
 public:
  using ForwardingCommunicator::ForwardingCommunicator;
  double seconds() const { return seconds_; }
  // Of collectives by another way than this.
  void add(double seconds, int64_t bytes) {
    seconds_ += seconds;
    bytes_ += bytes;
  }
  int64_t bytes() const { return bytes_; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) override {
    const Running running(seconds_);
    bytes_ += count * dtype_bytes(dtype);
    inner_.all_reduce(in, out, count, dtype, op);
  }
  void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) override {
    const Running running(seconds_);
    bytes_ += bytes[static_cast<size_t>(inner_.rank())];
    inner_.all_gather(in, out, bytes);
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    const Running running(seconds_);
    bytes_ += bytes;
    inner_.broadcast(data, bytes, root);
  }
  using Communicator::all_to_all;
  void all_to_all(const Messages& send, Messages& received) override {
    const Running running(seconds_);
    for (const auto& each : send) bytes_ += static_cast<int64_t>(each.size());
    inner_.all_to_all(send, received);
  }
  void barrier() override {
    const Running running(seconds_);
    inner_.barrier();
  }
  void start_together() override {
    const Running running(seconds_);
    inner_.start_together();
  }
  void rest() override {
    const Running running(seconds_);
    inner_.rest();
  }

 private:
  struct Running {
    explicit Running(double& to) : to_(to), begin_(std::chrono::steady_clock::now()) {}
    ~Running() { to_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
    double& to_;
    std::chrono::steady_clock::time_point begin_;
  };

  double seconds_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace lamina

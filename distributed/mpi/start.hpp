// Starting ranks together: a barrier in shared memory within a node, a synchronised clock across nodes.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstdint>

namespace lamina {

// Sense-reversing barrier of the ranks of one node, in memory that they share: they leave it as near together
// as one cache line travels. Ranks that outnumber the cores yield instead of spinning.
class SharedBarrier {
 public:
  // Collective over `local`, whose ranks must share memory. AgreedError where there is too little of it.
  explicit SharedBarrier(MPI_Comm local);
  SharedBarrier(const SharedBarrier&) = delete;
  SharedBarrier& operator=(const SharedBarrier&) = delete;
  ~SharedBarrier() = default;
  void wait();
  void free();  // collective

 private:
  struct State {
    alignas(64) std::atomic<uint32_t> arrived;
    alignas(64) std::atomic<uint32_t> generation;
  };
  MPI_Win window_ = MPI_WIN_NULL;
  State* state_ = nullptr;
  uint32_t ranks_ = 1;
  bool oversubscribed_ = false;
};

// Every rank spins until the same instant, which rank 0 broadcasts a little ahead, in its own clock. Offsets
// to rank 0's clock come from ping-pong (the round with the shortest way there and back, its middle taken as
// simultaneous), once per node, since a node's processes share one clock; they are measured anew every two
// seconds, and what they moved by since the last time gives the drift in between.
class ClockStart {
 public:
  // Collective over `comm`. `local`: its ranks on this node.
  ClockStart(MPI_Comm comm, MPI_Comm local);
  void wait();
  double offset_seconds() const { return offset_; }  // rank 0's clock minus this one's

 private:
  void synchronise();
  void measure_offset();
  double root_clock(double own) const { return own + offset_ + drift_ * (own - measured_at_); }

  MPI_Comm comm_, local_;
  int rank_ = 0, size_ = 1, local_rank_ = 0;
  double offset_ = 0, drift_ = 0, measured_at_ = 0;
  bool measured_ = false;
  double margin_ = 0;  // how far ahead the start must be for every rank to hear of it in time
};

}  // namespace lamina

// What `mpi-shm` stands on: the ranks of a node, memory that they share, and who stands for the node between
// nodes.
#pragma once

#include <mpi.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "distributed/communicator.hpp"
#include "distributed/mpi/spin.hpp"

namespace lamina {

// Fetches cache lines that will be written, soon or after they were read, where the machine can.
inline void claim(const std::byte* lines, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0"
                 :
                 : "m"(lines[i]));  // the builtin reads only, unless compiled for newer machines
#else
    __builtin_prefetch(lines + i, 1, 3);
#endif
  }
}
// Sends cache lines that were written to a cache that cores share, where the machine can: others fetch them
// from there sooner.
inline void demote([[maybe_unused]] const std::byte* lines, [[maybe_unused]] int64_t bytes) {
#if defined(__x86_64__)
  for (int64_t i = 0; i < bytes; i += 64)
    asm volatile("cldemote %0" : : "m"(lines[i]));  // nothing at all on machines that do not know it
#endif
}

// Every rank of a node has a window that all of them see: a step counter, two lines for tiny messages, and
// two pairs of slots. Collectives go in steps, the same on all ranks:
//
//   begin()    waits until every rank has published the step before: then nobody reads the slots of two steps
//              ago any more, which this step writes
//   publish()  says, after all of its writes (release), that this rank's slots of the step are filled
//   await()    sees another rank's (acquire), and with it what it wrote
//
// What a rank reads in a step it must have read before it publishes the next. Counters never repeat (64
// bits), so nothing is ever reset, and every counter and line is written by one rank alone.
class ShmNode {
 public:
  static constexpr int64_t kTinyBytes = 48;

  // Collective over `comm`, which stays the caller's. `ranks_per_node` above 0 takes so many consecutive
  // ranks of a host for a node: nodes to test with. AgreedError on every rank where any node lacks the
  // memory.
  ShmNode(Communicator& comm, MPI_Comm all, int ranks_per_node);
  ShmNode(const ShmNode&) = delete;
  ShmNode& operator=(const ShmNode&) = delete;
  ~ShmNode() = default;
  void free();  // collective

  int nodes() const { return nodes_; }
  int node() const { return node_; }
  int local_size() const { return local_size_; }
  int local_rank() const { return local_rank_; }
  int lanes() const { return lanes_; }      // ranks of the smallest node
  bool even() const { return even_; }       // all nodes have as many ranks
  MPI_Comm lane() const { return lane_; }   // ranks of this local number, by node
  int rank_of(int node, int local) const {  // in `comm`
    return ranks_[static_cast<size_t>(node)][static_cast<size_t>(local)];
  }
  int node_of(int rank) const { return places_[static_cast<size_t>(rank)].node; }
  int local_of(int rank) const { return places_[static_cast<size_t>(rank)].local; }
  int64_t slot_bytes() const { return slot_bytes_; }  // a multiple of a cache line

  void begin() {
    ++step_;
    if (known_ + 1 < step_) await_all(step_ - 1);
  }
  void publish() { window(local_rank_).step.store(step_, std::memory_order_release); }
  void await(int local) { await(local, step_); }
  void await_all() { await_all(step_); }

  // Of the present step, and of the one before.
  std::byte* slot(int local) { return slot(local, 0, step_); }
  std::byte* slot_before(int local) { return slot(local, 0, step_ - 1); }
  // Where in its slot a message of so many bytes goes in this step: another place each time, so that it is
  // long since out of the caches of those who read the last one there, and writing to it need not wait for
  // them.
  int64_t place_for(int64_t bytes) const {
    const int64_t size = (bytes + 63) / 64 * 64, places = slot_bytes_ / size;
    return static_cast<int64_t>((step_ >> 1) % static_cast<uint64_t>(places)) * size;
  }
  // Of two ranks: the slot that a rank writes in this step, by turns its own and the other's. So a rank
  // writes to what it read last, which its cache holds by then: a line crosses once a message instead of
  // twice, to be read and to be taken back.
  std::byte* slot_by_turns(int local) {
    return slot((local + static_cast<int>(step_ >> 1 & 1)) % 2, 0, step_);
  }
  std::byte* result(int local) { return slot(local, 1, step_); }
  // A whole step of a message of at most kTinyBytes: its counter lies in its own line. Every rank's, in
  // order, at kTinyBytes apart in the array returned.
  const std::byte* exchange_tiny(const void* in, int64_t bytes);

 private:
  struct Place {
    int node, local;
  };
  struct Window {
    alignas(128) std::atomic<uint64_t> step;  // 128: prefetchers fetch lines in pairs
    struct Tiny {
      alignas(128) std::atomic<uint64_t> step;
      std::byte data[kTinyBytes];
    } tiny[2];
  };  // and the slots behind it

  void split(MPI_Comm all, int ranks_per_node);
  void allocate(Communicator& comm);
  Window& window(int local) { return *windows_[static_cast<size_t>(local)]; }
  std::byte* slot(int local, int kind, uint64_t step) {
    return reinterpret_cast<std::byte*>(windows_[static_cast<size_t>(local)] + 1) +
           static_cast<int64_t>(2 * kind + static_cast<int>(step & 1)) * slot_bytes_;
  }
  void await(int local, uint64_t step);
  void await_all(uint64_t step);

  MPI_Comm local_ = MPI_COMM_NULL, lane_ = MPI_COMM_NULL;
  MPI_Win memory_ = MPI_WIN_NULL;
  int nodes_ = 1, node_ = 0, local_size_ = 1, local_rank_ = 0, lanes_ = 1;
  bool even_ = true;
  int64_t slot_bytes_ = 0;
  int spins_ = 0;
  std::vector<Place> places_;            // [rank]
  std::vector<std::vector<int>> ranks_;  // [node][local rank]
  std::vector<Window*> windows_;         // [local rank]
  std::vector<std::byte> tiny_;
  uint64_t step_ = 0;
  uint64_t known_ = 0;  // a step that every rank of the node is known to have published
};

}  // namespace lamina

// Memory of a node's GPUs that all its ranks' kernels reach, by CUDA's handles between processes.
#pragma once

#include <cstdint>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/buffer.hpp"

namespace lamina {

class PeerMemory {
 public:
  // Collective, over ranks of one node with a GPU each: `bytes` of every rank's GPU, opened by all others.
  // AgreedError where a GPU does not reach another's memory.
  PeerMemory(Communicator& comm, int64_t bytes);
  ~PeerMemory();  // the others must be done with it, and have closed it: to free it sooner is undefined
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  uint8_t* own() { return own_.as<uint8_t>(); }
  uint8_t* of(int rank) const { return all_[static_cast<size_t>(rank)]; }
  void close();  // the others' memory, which of() gives no more

 private:
  Buffer own_;
  int rank_;
  std::vector<uint8_t*> all_;
};

}  // namespace lamina

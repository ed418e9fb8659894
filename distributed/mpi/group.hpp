// The MPI resources behind a communicator: the communicator itself, its node's part, and what start_together
// needs.
//
// Freeing them is collective, and destructors must not communicate: so the launch owns every group, subsets
// are kept for the next caller, and Launch::finalize() frees them all in one order.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "distributed/communicator.hpp"
#include "distributed/mpi/numbers.hpp"
#include "distributed/mpi/start.hpp"

namespace lamina {

class ShmNode;

class MpiGroup {
 public:
  // Takes over `comm`, which must not be MPI_COMM_WORLD. Collective over it.
  explicit MpiGroup(MPI_Comm comm);
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup();

  // Ranks [0, ranks), made at the first call and kept; null on the others. Collective.
  MpiGroup* subset(int ranks);
  // Collective; the group is unusable afterwards.
  void free();

  MPI_Comm comm() const { return comm_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  int nodes() const { return nodes_; }
  int local_size() const { return local_size_; }
  int local_rank() const { return local_rank_; }
  void start_together();
  MpiNumbers& numbers() { return numbers_; }
  // Over all of its ranks, of any length; `in` may equal `out`.
  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op);
  void broadcast(void* data, int64_t bytes, int root);
  // Made where no transport has one of this number, and kept until trim(). Collective over the group, as
  // `comm` stands for it. AgreedError.
  std::shared_ptr<ShmNode> shm_node(Communicator& comm, int ranks_per_node);
  // Frees the shared memory that no transport uses any more. Collective over the group.
  void trim();

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
  MPI_Comm local_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, nodes_ = 1, local_size_ = 1, local_rank_ = 0;
  MpiNumbers numbers_;
  std::unique_ptr<SharedBarrier> barrier_;
  std::unique_ptr<ClockStart> clock_;
  std::map<int, std::unique_ptr<MpiGroup>> subsets_;
  std::map<int, std::shared_ptr<ShmNode>> shm_nodes_;
};

// What a communicator over MPI stands on. AgreedError for another one.
MpiGroup& mpi_group(Communicator& comm);

}  // namespace lamina

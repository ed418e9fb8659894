#include "distributed/mpi/group.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "distributed/mpi/chunks.hpp"
#include "distributed/mpi/shm_node.hpp"

namespace lamina {

MpiGroup::MpiGroup(MPI_Comm comm) : comm_(comm) {
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local_),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_set_errhandler(local_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(local_, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(local_, &local_size_), "MPI_Comm_size");
  nodes_ = local_rank_ == 0 ? 1 : 0;
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &nodes_, 1, MPI_INT, MPI_SUM, comm_), "MPI_Allreduce");
  if (nodes_ == 1) barrier_ = std::make_unique<SharedBarrier>(local_);
}

MpiGroup* MpiGroup::subset(int ranks) {
  if (ranks < 1 || ranks > size_) {
    throw std::invalid_argument(fmt::format("subset: expected 1 to {} ranks, found {}", size_, ranks));
  }
  const auto [entry, made] = subsets_.try_emplace(ranks);
  if (made) {
    MPI_Comm part = MPI_COMM_NULL;
    const int color = rank_ < ranks ? 0 : MPI_UNDEFINED;
    check_mpi(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
    if (part != MPI_COMM_NULL) entry->second = std::make_unique<MpiGroup>(part);
  }
  return entry->second.get();
}

MpiGroup::~MpiGroup() = default;

void MpiGroup::all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) {
  const int64_t bytes = dtype_bytes(dtype);
  for_each_chunk(count, [&](int64_t begin, int length) {
    auto* to = static_cast<std::byte*>(out) + begin * bytes;
    const void* from = in == out ? MPI_IN_PLACE : static_cast<const std::byte*>(in) + begin * bytes;
    check_mpi(MPI_Allreduce(from, to, length, numbers_.type(dtype), numbers_.op(dtype, op), comm_),
              "MPI_Allreduce");
  });
}

void MpiGroup::broadcast(void* data, int64_t bytes, int root) {
  for_each_chunk(bytes, [&](int64_t begin, int length) {
    check_mpi(MPI_Bcast(static_cast<std::byte*>(data) + begin, length, MPI_BYTE, root, comm_), "MPI_Bcast");
  });
}

std::shared_ptr<ShmNode> MpiGroup::shm_node(Communicator& comm, int ranks_per_node) {
  auto& kept = shm_nodes_[ranks_per_node];
  if (!kept) kept = std::make_shared<ShmNode>(comm, comm_, ranks_per_node);
  return kept;
}

void MpiGroup::trim() {
  std::erase_if(shm_nodes_, [](auto& entry) {
    if (entry.second && entry.second.use_count() > 1) return false;
    if (entry.second) entry.second->free();
    return true;
  });
}

void MpiGroup::free() {
  for (auto& [number, node] : shm_nodes_) {
    if (node) node->free();
  }
  shm_nodes_.clear();
  for (auto& [ranks, group] : subsets_) {
    if (group) group->free();
  }
  subsets_.clear();
  if (barrier_) barrier_->free();
  if (local_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&local_), "MPI_Comm_free");
  if (comm_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&comm_), "MPI_Comm_free");
}

void MpiGroup::start_together() {
  // The variable lets one node's tests reach what otherwise needs two.
  const char* force = std::getenv("LAMINA_FORCE_CLOCK_START");
  if (nodes_ == 1 && !(force && std::string_view(force) == "1")) {
    barrier_->wait();
    return;
  }
  if (!clock_) clock_ = std::make_unique<ClockStart>(comm_, local_);
  clock_->wait();
}

}  // namespace lamina

#include "distributed/mpi/shm_node.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "distributed/mpi/group.hpp"
#include "distributed/mpi/shm_room.hpp"
#include "distributed/variable.hpp"

namespace lamina {
namespace {

static_assert(std::atomic<uint64_t>::is_always_lock_free,
              "step counters live in memory that processes share");

// Four slots of this size a rank: several times a chunk, for messages to take turns in (place_for).
constexpr int64_t kSlotBytes = 1 << 20;
constexpr int64_t kLine = 64;
constexpr const char* kWindowVariable = "LAMINA_SHM_WINDOW_KIB";

// The four slots' bytes together.
int64_t wanted_bytes() {
  constexpr int64_t kKib = 1 << 10;
  return kKib *
         variable(kWindowVariable, "KiB of shared memory a rank", 4, int64_t{1} << 40, 4 * kSlotBytes / kKib);
}

double mib(double bytes) {
  return bytes / (1 << 20);
}

}  // namespace

ShmNode::ShmNode(Communicator& comm, MPI_Comm all, int ranks_per_node) {
  split(all, ranks_per_node);
  try {
    allocate(comm);
  } catch (const AgreedError&) {  // all ranks come here; after any other error freeing would wait for them
    free();
    throw;
  }
}

void ShmNode::split(MPI_Comm all, int ranks_per_node) {
  int rank = 0, size = 1;
  check_mpi(MPI_Comm_rank(all, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(all, &size), "MPI_Comm_size");
  check_mpi(MPI_Comm_split_type(all, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &local_),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(local_, &local_rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(local_, &local_size_), "MPI_Comm_size");
  spins_ = local_size_ > node_cpus(local_) ? kSpinsOversubscribed : kSpins;  // all nodes of this host
  if (ranks_per_node > 0) {
    MPI_Comm part = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split(local_, local_rank_ / ranks_per_node, rank, &part), "MPI_Comm_split");
    check_mpi(MPI_Comm_free(&local_), "MPI_Comm_free");
    local_ = part;
    check_mpi(MPI_Comm_rank(local_, &local_rank_), "MPI_Comm_rank");
  }
  check_mpi(MPI_Comm_set_errhandler(local_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_size(local_, &local_size_), "MPI_Comm_size");

  // Nodes are numbered by their first rank.
  int first = rank;
  check_mpi(MPI_Bcast(&first, 1, MPI_INT, 0, local_), "MPI_Bcast");
  const int mine[] = {first, local_rank_};
  std::vector<int> everyone(2 * static_cast<size_t>(size));
  check_mpi(MPI_Allgather(mine, 2, MPI_INT, everyone.data(), 2, MPI_INT, all), "MPI_Allgather");
  std::vector<int> firsts;
  for (size_t r = 0; r < static_cast<size_t>(size); ++r)
    if (everyone[2 * r] == static_cast<int>(r)) firsts.push_back(static_cast<int>(r));
  ranks_.resize(firsts.size());
  for (size_t r = 0; r < static_cast<size_t>(size); ++r) {
    const auto node = std::find(firsts.begin(), firsts.end(), everyone[2 * r]) - firsts.begin();
    places_.push_back({static_cast<int>(node), everyone[2 * r + 1]});
    ranks_[static_cast<size_t>(node)].push_back(static_cast<int>(r));  // local ranks follow ranks
  }
  nodes_ = static_cast<int>(firsts.size());
  node_ = node_of(rank);
  size_t least = ranks_.front().size(), most = least;
  for (const auto& node : ranks_) {
    least = std::min(least, node.size());
    most = std::max(most, node.size());
  }
  lanes_ = static_cast<int>(least);
  even_ = least == most;
  check_mpi(MPI_Comm_split(all, local_rank_, node_, &lane_), "MPI_Comm_split");
  check_mpi(MPI_Comm_set_errhandler(lane_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

void ShmNode::allocate(Communicator& comm) {
  std::string problem;
  int64_t bytes = 0;
  try {
    slot_bytes_ = wanted_bytes() / 4 / kLine * kLine;
    if (slot_bytes_ < kLine * comm.size())
      throw std::invalid_argument(fmt::format("{}: expected at least {} KiB for {} ranks, found {}",
                                              kWindowVariable, (4 * kLine * comm.size() + 1023) >> 10,
                                              comm.size(), wanted_bytes() >> 10));
    bytes = static_cast<int64_t>(sizeof(Window)) + 4 * slot_bytes_;
    // With a margin: Open MPI wants 5 % more than it is asked for, and where it finds less the others wait
    // for the rank that looked. A rank alone gets memory of its own.
    if (local_rank_ == 0 && local_size_ > 1)
      problem =
          too_little_room_in_shm(1.1 * static_cast<double>(bytes) * local_size_ + (1 << 20), local_size_);
    if (!problem.empty())
      problem += fmt::format(", set {} below {}, or take \"communicator\": \"mpi\"", kWindowVariable,
                             4 * slot_bytes_ >> 10);
  } catch (const std::exception& e) {
    problem = e.what();
  }
  comm.require(problem);

  // Ranks with different environments would otherwise disagree about where slots lie, and how many steps to
  // take.
  comm.all_reduce(&slot_bytes_, &slot_bytes_, 1, DType::i64, ReduceOp::min);

  MPI_Info info = MPI_INFO_NULL;
  check_mpi(MPI_Info_create(&info), "MPI_Info_create");
  check_mpi(MPI_Info_set(info, "alloc_shared_noncontig", "true"),
            "MPI_Info_set");  // each on pages of its own
  void* base = nullptr;
  const auto length = static_cast<MPI_Aint>(bytes + static_cast<int64_t>(alignof(Window)));
  const int code = MPI_Win_allocate_shared(length, 1, info, local_, &base, &memory_);
  MPI_Info_free(&info);
  try {
    comm.require(code == MPI_SUCCESS ? ""
                                     : fmt::format("MPI_Win_allocate_shared of {:.1f} MiB failed; take "
                                                   "\"communicator\": \"mpi\", or set {} lower",
                                                   mib(static_cast<double>(bytes)), kWindowVariable));
  } catch (const AgreedError&) {
    memory_ = MPI_WIN_NULL;  // some ranks have none: those that do cannot free it together
    throw;
  }
  for (int local = 0; local < local_size_; ++local) {
    MPI_Aint size = 0;
    int unit = 1;
    check_mpi(MPI_Win_shared_query(memory_, local, &size, &unit, &base), "MPI_Win_shared_query");
    // Processes map a window at different addresses, but all on the same offset of a page.
    const auto address = reinterpret_cast<uintptr_t>(base);
    windows_.push_back(
        reinterpret_cast<Window*>((address + alignof(Window) - 1) / alignof(Window) * alignof(Window)));
  }
  // Touched first by their own rank, whose memory it then is.
  Window& own = window(local_rank_);
  std::memset(static_cast<void*>(&own + 1), 0, static_cast<size_t>(4 * slot_bytes_));
  new (&own.step) std::atomic<uint64_t>(0);
  for (auto& line : own.tiny) new (&line.step) std::atomic<uint64_t>(0);
  tiny_.resize(static_cast<size_t>(local_size_ * kTinyBytes));

  check_mpi(MPI_Barrier(local_), "MPI_Barrier");
}

void ShmNode::free() {
  windows_.clear();
  if (memory_ != MPI_WIN_NULL) check_mpi(MPI_Win_free(&memory_), "MPI_Win_free");
  if (lane_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&lane_), "MPI_Comm_free");
  if (local_ != MPI_COMM_NULL) check_mpi(MPI_Comm_free(&local_), "MPI_Comm_free");
}

void ShmNode::await(int local, uint64_t step) {
  const std::atomic<uint64_t>& counter = window(local).step;
  spin_until([&] { return counter.load(std::memory_order_acquire) >= step; }, spins_);
}

void ShmNode::await_all(uint64_t step) {
  for (int local = 0; local < local_size_; ++local)
    if (local != local_rank_) await(local, step);
  known_ = step;
}

const std::byte* ShmNode::exchange_tiny(const void* in, int64_t bytes) {
  begin();
  const size_t size = static_cast<size_t>(bytes);
  auto& own = window(local_rank_).tiny[step_ & 1];
  if (size > 0) std::memcpy(own.data, in, size);
  own.step.store(step_, std::memory_order_release);
  publish();
  for (int local = 0; local < local_size_; ++local) {
    auto& line = window(local).tiny[step_ & 1];
    spin_until([&] { return line.step.load(std::memory_order_acquire) >= step_; }, spins_);
    if (size > 0) std::memcpy(tiny_.data() + local * kTinyBytes, line.data, size);
  }
  known_ = step_;
  return tiny_.data();
}

}  // namespace lamina

#include "distributed/mpi/start.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "distributed/mpi/group.hpp"
#include "distributed/mpi/shm_room.hpp"
#include "distributed/mpi/spin.hpp"

namespace lamina {
namespace {

static_assert(std::atomic<uint32_t>::is_always_lock_free,
              "the barrier's counters live in memory that processes share");

constexpr size_t kMostCpus = 1 << 16;
constexpr int kPingRounds = 20;
constexpr int kTrialBroadcasts = 8;
constexpr double kRefreshSeconds = 2;
constexpr double kMinMarginSeconds = 30e-6;
constexpr double kMaxMarginSeconds = 20e-3;
constexpr int kPingTag = 1;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// All ranks find the same: before there is a communicator to agree by.
void require_room(MPI_Comm local, int rank, int size) {
  if (size == 1) return;  // a rank alone gets memory of its own
  std::string problem;
  // A page of the barrier, and one of what the library keeps beside it.
  if (rank == 0) problem = too_little_room_in_shm(2 * static_cast<double>(sysconf(_SC_PAGESIZE)), size);
  auto length = static_cast<int>(problem.size());
  check_mpi(MPI_Bcast(&length, 1, MPI_INT, 0, local), "MPI_Bcast");
  problem.resize(static_cast<size_t>(length));
  check_mpi(MPI_Bcast(problem.data(), length, MPI_CHAR, 0, local), "MPI_Bcast");
  if (!problem.empty()) throw AgreedError("rank 0: " + problem);
}

}  // namespace

int node_cpus(MPI_Comm local) {
  std::array<uint8_t, kMostCpus / 8> mine{}, all{};
  // Left empty should the call fail: a rank then yields early.
  sched_getaffinity(0, mine.size(), reinterpret_cast<cpu_set_t*>(mine.data()));
  check_mpi(MPI_Allreduce(mine.data(), all.data(), static_cast<int>(all.size()), MPI_UINT8_T, MPI_BOR, local),
            "MPI_Allreduce");
  int cpus = 0;
  for (const uint8_t byte : all) cpus += std::popcount(byte);
  return cpus;
}

SharedBarrier::SharedBarrier(MPI_Comm local) {
  int rank = 0, size = 1;
  check_mpi(MPI_Comm_rank(local, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(local, &size), "MPI_Comm_size");
  ranks_ = static_cast<uint32_t>(size);
  require_room(local, rank, size);
  void* base = nullptr;
  // One cache line more than needed: the window's own alignment is the library's.
  const MPI_Aint bytes = rank == 0 ? static_cast<MPI_Aint>(sizeof(State) + alignof(State)) : 0;
  check_mpi(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, local, &base, &window_),
            "MPI_Win_allocate_shared");
  MPI_Aint length = 0;
  int unit = 1;
  check_mpi(MPI_Win_shared_query(window_, 0, &length, &unit, &base), "MPI_Win_shared_query");
  // Processes map the window at different addresses, but on pages: the offset to the next line is the same in
  // each.
  const auto address = reinterpret_cast<uintptr_t>(base);
  const uintptr_t aligned = (address + alignof(State) - 1) / alignof(State) * alignof(State);
  state_ = reinterpret_cast<State*>(aligned);
  if (rank == 0) {
    new (&state_->arrived) std::atomic<uint32_t>(0);
    new (&state_->generation) std::atomic<uint32_t>(0);
  }
  oversubscribed_ = size > node_cpus(local);
  check_mpi(MPI_Barrier(local), "MPI_Barrier");
}

void SharedBarrier::wait() {
  if (ranks_ == 1) return;
  const uint32_t generation = state_->generation.load(std::memory_order_acquire);
  if (state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks_) {
    state_->arrived.store(0, std::memory_order_relaxed);
    state_->generation.store(generation + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return state_->generation.load(std::memory_order_acquire) != generation; },
             oversubscribed_ ? kSpinsOversubscribed : 200'000);  // a yield costs nearness
}

void SharedBarrier::free() {
  state_ = nullptr;
  if (window_ != MPI_WIN_NULL) check_mpi(MPI_Win_free(&window_), "MPI_Win_free");
}

ClockStart::ClockStart(MPI_Comm comm, MPI_Comm local) : comm_(comm), local_(local) {
  check_mpi(MPI_Comm_rank(comm, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm, &size_), "MPI_Comm_size");
  check_mpi(MPI_Comm_rank(local, &local_rank_), "MPI_Comm_rank");
  synchronise();
}

void ClockStart::measure_offset() {
  // Only the first rank of each node plays; rank 0 takes them one after another, so that no pair disturbs
  // another.
  std::vector<int> leaders(static_cast<size_t>(size_));
  const int leads = local_rank_ == 0 ? 1 : 0;
  check_mpi(MPI_Allgather(&leads, 1, MPI_INT, leaders.data(), 1, MPI_INT, comm_), "MPI_Allgather");
  double sample[2] = {0, now_seconds()};  // offset, and when it was measured in this rank's clock
  for (int peer = 1; peer < size_; ++peer) {
    if (!leaders[static_cast<size_t>(peer)] || (rank_ != 0 && rank_ != peer)) continue;
    double best = 1e9;
    for (int round = 0; round < kPingRounds; ++round) {
      double root_time = 0;
      if (rank_ == 0) {
        check_mpi(MPI_Recv(&root_time, 1, MPI_DOUBLE, peer, kPingTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
        root_time = now_seconds();
        check_mpi(MPI_Send(&root_time, 1, MPI_DOUBLE, peer, kPingTag, comm_), "MPI_Send");
        continue;
      }
      const double sent = now_seconds();
      check_mpi(MPI_Send(&root_time, 1, MPI_DOUBLE, 0, kPingTag, comm_), "MPI_Send");
      check_mpi(MPI_Recv(&root_time, 1, MPI_DOUBLE, 0, kPingTag, comm_, MPI_STATUS_IGNORE), "MPI_Recv");
      const double received = now_seconds();
      if (received - sent < best) {
        best = received - sent;
        sample[0] = root_time - (sent + received) / 2;
        sample[1] = (sent + received) / 2;
      }
    }
  }
  check_mpi(MPI_Bcast(sample, 2, MPI_DOUBLE, 0, local_), "MPI_Bcast");
  const double elapsed = sample[1] - measured_at_;
  // Over a shorter time than this the ping-pong's own error would pass for drift.
  if (measured_ && elapsed > kRefreshSeconds / 2) drift_ = (sample[0] - offset_) / elapsed;
  offset_ = sample[0];
  measured_at_ = sample[1];
  measured_ = true;
}

void ClockStart::synchronise() {
  measure_offset();
  double delay = 0;
  for (int trial = 0; trial < kTrialBroadcasts; ++trial) {
    check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
    double sent = now_seconds();
    check_mpi(MPI_Bcast(&sent, 1, MPI_DOUBLE, 0, comm_), "MPI_Bcast");
    // The first rounds also connect and warm up.
    if (trial >= kTrialBroadcasts / 2) delay = std::max(delay, root_clock(now_seconds()) - sent);
  }
  check_mpi(MPI_Allreduce(MPI_IN_PLACE, &delay, 1, MPI_DOUBLE, MPI_MAX, comm_), "MPI_Allreduce");
  margin_ = std::clamp(3 * delay, kMinMarginSeconds, kMaxMarginSeconds);
}

void ClockStart::wait() {
  // Without the barrier a late rank would find the instant already past.
  check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
  double start = 0;
  for (;;) {
    // Negative: rank 0 finds the offsets too old, and all measure them together.
    if (rank_ == 0) {
      const double now = now_seconds();
      start = now - measured_at_ > kRefreshSeconds ? -1 : now + margin_;
    }
    check_mpi(MPI_Bcast(&start, 1, MPI_DOUBLE, 0, comm_), "MPI_Bcast");
    if (start >= 0) break;
    synchronise();
    check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
  }
  while (root_clock(now_seconds()) < start) relax();
}

}  // namespace lamina

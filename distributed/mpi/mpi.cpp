// The communicator over MPI, and the launch.
#include <fmt/format.h>
#include <mpi.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "distributed/communicator.hpp"
#include "distributed/launcher.hpp"
#include "distributed/mpi/chunks.hpp"
#include "distributed/mpi/group.hpp"

namespace lamina {
namespace {

constexpr int kAllToAllTag = 2;
constexpr long kRestNanoseconds = 1'000'000;

// A thin handle: the group's resources belong to the launch.
class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MpiGroup& group) : group_(group) {}
  MpiGroup& group() const { return group_; }

  std::string name() const override { return "mpi"; }
  int rank() const override { return group_.rank(); }
  int size() const override { return group_.size(); }
  int nodes() const override { return group_.nodes(); }
  int local_size() const override { return group_.local_size(); }
  int local_rank() const override { return group_.local_rank(); }
  int mpi_handle() const override { return MPI_Comm_c2f(group_.comm()); }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) override {
    group_.all_reduce(in, out, count, dtype, op);
  }

  void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) override {
    if (static_cast<int>(bytes.size()) != size()) {
      throw std::invalid_argument(
          fmt::format("all_gather: expected {} sizes, found {}", size(), bytes.size()));
    }
    int64_t total = 0;
    std::vector<int> counts, places;
    for (const int64_t part : bytes) {
      counts.push_back(static_cast<int>(std::min(part, kMaxMpiCount)));
      places.push_back(static_cast<int>(std::min(total, kMaxMpiCount)));
      total += part;
    }
    if (total <= kMaxMpiCount) {
      const size_t own = static_cast<size_t>(rank());
      const bool in_place = in == static_cast<std::byte*>(out) + places[own];
      check_mpi(MPI_Allgatherv(in_place ? MPI_IN_PLACE : in, counts[own], MPI_BYTE, out, counts.data(),
                               places.data(), MPI_BYTE, group_.comm()),
                "MPI_Allgatherv");
      return;
    }
    // Places no longer fit an int.
    int64_t begin = 0;
    for (int root = 0; root < size(); ++root) {
      const int64_t part = bytes[static_cast<size_t>(root)];
      auto* to = static_cast<std::byte*>(out) + begin;
      if (root == rank() && in != to && part > 0) std::memcpy(to, in, static_cast<size_t>(part));
      broadcast(to, part, root);
      begin += part;
    }
  }

  void broadcast(void* data, int64_t bytes, int root) override { group_.broadcast(data, bytes, root); }

  using Communicator::all_to_all;
  void all_to_all(const Messages& send, Messages& received) override {
    const size_t ranks = static_cast<size_t>(size());
    if (send.size() != ranks) {
      throw std::invalid_argument(
          fmt::format("all_to_all: expected {} messages, found {}", ranks, send.size()));
    }
    std::vector<int64_t> out_bytes(ranks), in_bytes(ranks);
    for (size_t peer = 0; peer < ranks; ++peer) out_bytes[peer] = static_cast<int64_t>(send[peer].size());
    check_mpi(MPI_Alltoall(out_bytes.data(), 1, MPI_INT64_T, in_bytes.data(), 1, MPI_INT64_T, group_.comm()),
              "MPI_Alltoall");
    received.resize(ranks);
    received[static_cast<size_t>(rank())] = send[static_cast<size_t>(rank())];
    // One peer after the other: of messages to all at once MPI would keep copies for each of them.
    std::vector<MPI_Request> requests;
    for (int step = 1; step < size(); ++step) {
      const int from = (rank() + size() - step) % size(), to = (rank() + step) % size();
      Message& in = received[static_cast<size_t>(from)];
      const Message& out = send[static_cast<size_t>(to)];
      in.resize(static_cast<size_t>(in_bytes[static_cast<size_t>(from)]));
      requests.clear();
      for_each_chunk(static_cast<int64_t>(in.size()), [&](int64_t begin, int length) {
        check_mpi(MPI_Irecv(in.data() + begin, length, MPI_BYTE, from, kAllToAllTag, group_.comm(),
                            &requests.emplace_back()),
                  "MPI_Irecv");
      });
      for_each_chunk(static_cast<int64_t>(out.size()), [&](int64_t begin, int length) {
        check_mpi(MPI_Isend(out.data() + begin, length, MPI_BYTE, to, kAllToAllTag, group_.comm(),
                            &requests.emplace_back()),
                  "MPI_Isend");
      });
      check_mpi(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE),
                "MPI_Waitall");
    }
  }

  void barrier() override { check_mpi(MPI_Barrier(group_.comm()), "MPI_Barrier"); }
  void start_together() override { group_.start_together(); }

  void rest() override {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibarrier(group_.comm(), &request), "MPI_Ibarrier");
    for (int done = 0;;) {
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done) return;
      const timespec pause{0, kRestNanoseconds};
      nanosleep(&pause, nullptr);
    }
  }

  void trim() override { group_.trim(); }

  std::unique_ptr<Communicator> subset(int ranks) override {
    MpiGroup* part = group_.subset(ranks);
    return part ? std::make_unique<MpiCommunicator>(*part) : nullptr;
  }

 private:
  MpiGroup& group_;
};

}  // namespace

MpiGroup& mpi_group(Communicator& comm) {
  auto* over_mpi = dynamic_cast<MpiCommunicator*>(&comm);
  if (over_mpi == nullptr)
    throw AgreedError(fmt::format("expected a communicator over MPI, found \"{}\"", comm.name()));
  return over_mpi->group();
}

struct Launch::State {
  std::unique_ptr<MpiGroup> group;
  std::unique_ptr<MpiCommunicator> world;
};

Launch::Launch(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  int size = 1;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  std::string problem = launch_mismatch(launcher_claim(), size, library());
  if (problem.empty() && provided < MPI_THREAD_FUNNELED) {
    problem = fmt::format("expected an MPI that allows threads beside it (MPI_THREAD_FUNNELED), found {}",
                          library());
  }
  if (!problem.empty()) {
    MPI_Finalize();  // every process of the launch comes here, for the same reason
    throw std::runtime_error(problem);
  }
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup");
  state_ = std::make_unique<State>();
  try {
    state_->group = std::make_unique<MpiGroup>(comm);
  } catch (const AgreedError&) {
    MPI_Finalize();  // likewise
    throw;
  }
  state_->world = std::make_unique<MpiCommunicator>(*state_->group);
}

Launch::~Launch() = default;

Communicator& Launch::world() {
  return *state_->world;
}

void Launch::finalize() {
  if (!state_->group) return;
  state_->group->free();
  state_->world.reset();
  state_->group.reset();
  check_mpi(MPI_Finalize(), "MPI_Finalize");
}

std::string Launch::library() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "MPI of unknown version";
  // The first line's first clause: "Open MPI v4.1.4, package: …", "MPICH Version:      4.0.2\n…".
  std::string name(text, static_cast<size_t>(length));
  name.resize(std::min(name.find_first_of(",\n"), name.size()));
  std::string tidy;
  for (const char c : name) {
    const bool blank = c == ' ' || c == '\t' || c == '\r';
    if (!blank) tidy += c;
    if (blank && !tidy.empty() && tidy.back() != ' ') tidy += ' ';
  }
  return tidy;
}

void Launch::abort(int exit_code) {
  std::fflush(nullptr);
  int begun = 0, ended = 0;
  MPI_Initialized(&begun);
  MPI_Finalized(&ended);
  if (begun && !ended) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace lamina

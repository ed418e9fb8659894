// Processes that work together, and the collectives they share. Byte-level, with a data type where arithmetic
// needs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/buffer.hpp"

namespace lamina {

using Message = PagedVector<std::byte>;
using Messages = std::vector<Message>;  // one of each rank, or to each

enum class DType { f32, f64, f16, bf16, i8, i32, i64, u8 };
enum class ReduceOp { sum, max, min };
int64_t dtype_bytes(DType dtype);

// The outcome of agree(): ok on all ranks, or the first failing rank and its message, the same on every rank.
struct Agreement {
  bool ok = true;
  int rank = -1;
  std::string message;
};

// Thrown by require(): every rank of the communicator throws the same, so the job may go on in step.
class AgreedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Every call is collective over all ranks of the communicator unless it says otherwise. Implementations throw
// std::runtime_error on failure of the transport. Destructors do not communicate.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual std::string name() const = 0;  // "self", "mpi", …
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int nodes() const = 0;       // distinct hosts
  virtual int local_size() const = 0;  // ranks on this host
  virtual int local_rank() const = 0;
  // Its MPI communicator as Fortran numbers it, for libraries over MPI; -1 where there is none.
  virtual int mpi_handle() const { return -1; }

  // `in` may equal `out`. Element order within the reduction is the transport's.
  virtual void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) = 0;
  // Every rank's `bytes[r]` bytes, concatenated in rank order into `out` on every rank.
  virtual void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) = 0;
  virtual void broadcast(void* data, int64_t bytes, int root) = 0;
  // send[r] goes to rank r; received[r], of another object, came from rank r, in the memory it holds where
  // that is enough. Any sizes, over 2 GiB included.
  virtual void all_to_all(const Messages& send, Messages& received) = 0;
  Messages all_to_all(const Messages& send) {
    Messages received;
    all_to_all(send, received);
    return received;
  }
  virtual void barrier() = 0;
  // Returns on all ranks as near the same instant as the transport can: through shared memory within a node,
  // at a synchronised clock time across nodes. Timed regions start here.
  virtual void start_together() = 0;
  // For ranks that sit a case out: until every rank has called it, waits without spinning on a core.
  virtual void rest() = 0;
  // Frees what transports over these ranks, of which none is left, leave behind: memory that ranks share is
  // freed together.
  virtual void trim() {}
  // Ranks [0, ranks) as a communicator; null on the others.
  virtual std::unique_ptr<Communicator> subset(int ranks) = 0;

  // Turns one rank's failure into everyone's: `message` empty means ok.
  Agreement agree(const std::string& message);
  // Agrees, and throws AgreedError("rank R: message") on every rank when any has a message.
  void require(const std::string& message);
  // The largest value over ranks.
  double max(double value);
  double sum(double value);
  // Root's text on every rank.
  std::string broadcast_text(const std::string& text, int root = 0);
};

// Ends the whole job at once, from any rank, after printing `message` with rank and place. Never returns.
[[noreturn]] void abort_job(const Communicator& world, const std::string& message);

std::unique_ptr<Communicator> make_self_communicator();

// The process's place in the launch: MPI where it was built and launched, else one process alone.
class Launch {
 public:
  Launch(int* argc, char*** argv);
  ~Launch();  // does nothing; call finalize()
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  Communicator& world();
  void finalize();
  static std::string library();      // "Open MPI v4.1.4", or why MPI is absent
  static void abort(int exit_code);  // MPI_Abort, or _exit

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lamina

// Who moves tensors between ranks: what a layer's collectives run on, and what workload `collective`
// measures. It is the data path beside Communicator, which starts ranks together, agrees on errors and moves
// small things on the host.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/communicator.hpp"
#include "kernels/device.hpp"

namespace lamina {

enum class CollectiveKind { all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, send_recv };
enum class Payload;  // of collectives/codec.hpp

// Every call is collective over the communicator's ranks, in one order on all of them. Memory is the
// device's. On a GPU a call puts its work on `stream` and returns; on the CPU it returns when done. `in` may
// equal `out` where that is the collective's in-place form: all_reduce and broadcast at the same address,
// all_gather with `in` at this rank's part of `out`, reduce_scatter with `out` at this rank's part of `in`.
// Counts may be 0 and need not divide by the ranks. Throws std::runtime_error (DeviceError on a GPU) when the
// transport fails; destructors do not communicate.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string name() const = 0;  // as a config's `communicator` says: "mpi", "mpi-shm", "nccl", …
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Why such a call cannot run here: a data type that the backend lacks, a size that it cannot hold. Empty:
  // it can. The same on every rank.
  virtual std::string refusal(CollectiveKind /*kind*/, DType /*dtype*/, int64_t /*count*/) const {
    return "";
  }

  virtual void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                          Stream& stream) = 0;
  // in: [ranks × count]; out: [count], the sum (or op) of all ranks' part of this rank's number.
  virtual void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                              Stream& stream) = 0;
  // in: [bytes]; out: [ranks × bytes], in rank order.
  virtual void all_gather(const void* in, void* out, int64_t bytes, Stream& stream) = 0;
  virtual void broadcast(const void* in, void* out, int64_t bytes, int root, Stream& stream) = 0;
  // in, out: [ranks × bytes]; part r of `in` goes to rank r.
  virtual void all_to_all(const void* in, void* out, int64_t bytes, Stream& stream) = 0;
  // To the next rank, from the one before, around the ring.
  virtual void send_recv(const void* in, void* out, int64_t bytes, Stream& stream) = 0;

  // A sum whose messages travel as codes with a scale a block (collectives/codec.hpp), where the transport
  // has a way of its own that is faster than a codec above it. `residual`: [count], of error feedback, or
  // null. False, on every rank: it has none for such a call.
  virtual bool all_reduce_coded(Payload /*payload*/, int64_t /*block*/, const void* /*in*/, void* /*out*/,
                                int64_t /*count*/, DType /*dtype*/, float* /*residual*/, Stream& /*stream*/) {
    return false;
  }
  // Whether a GPU's calls may be captured in a graph. Those that wait for the host may not.
  virtual bool capturable() const { return true; }
  // Calls so far that tried one of several ways of a collective, to choose one: none any more once calls go
  // the way that they will go from then on. The same on every rank.
  virtual int64_t trials() const { return 0; }
  // Throws what went wrong in calls that have returned. Does not communicate.
  virtual void poll() {}
  // Lets go of what is other ranks', and heeds no more what becomes of them: each may then see another's end
  // without taking it for a failure. All ranks call it and meet before any destroys its own; no other call
  // may follow. Where a job fails transports are destroyed without it.
  virtual void release() {}

  // What `auto` would have taken before this one, and why it could not be set up. Empty: nothing.
  std::string passed_over;
};

struct TransportOptions {
  double timeout_seconds = 60;  // of setting up
  // Takes so many consecutive ranks of a host for a node, to test what is done between nodes; 0: hosts as
  // they are.
  int ranks_per_node = 0;
};

// A kind of transport, as `lamina list` shows it and `communicator` names it.
struct TransportType {
  std::string name;
  std::string device;  // whose memory it moves: "cpu", "cuda"
  std::string help;
  std::string absent;  // why it is not there, and what to do; empty: it is
  // Collective over `comm`, which must outlive it. AgreedError where any rank cannot.
  std::function<std::unique_ptr<Transport>(Communicator& comm, const TransportOptions& options)> make;
};

// One line a transport, of a device the fastest first.
const std::vector<TransportType>& transports();
// The type of this name and device; `auto` is the fastest that is there. Null where there is none.
const TransportType* find_transport(std::string_view name, std::string_view device);
// Makes it; `auto` is the first that can be set up, `self` alone on one rank. Collective. AgreedError, with
// what each lacks.
std::unique_ptr<Transport> make_transport(const std::string& name, const std::string& device,
                                          Communicator& comm, const TransportOptions& options = {});

}  // namespace lamina

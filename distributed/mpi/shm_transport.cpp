// The transport `mpi-shm`: within a node through memory that its ranks share, between nodes by MPI.
//
// Messages go through slots of a bounded window, in chunks; shm_node.hpp has the protocol,
// docs/collectives.md the algorithms with their costs.
#include <mpi.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "distributed/collectives/combine.hpp"
#include "distributed/forwarding_transport.hpp"
#include "distributed/mpi/faster_way.hpp"
#include "distributed/mpi/group.hpp"
#include "distributed/mpi/shm_node.hpp"
#include "distributed/mpi/shm_parts.hpp"
#include "distributed/transports.hpp"

namespace lamina {
namespace {

constexpr int64_t kLine = 64;
// While a rank of more than two has to read no more of the others' for it, each adds up everything itself:
// one meeting instead of two. Two ranks always do, but for long messages of f16, of which adding costs more
// than moving.
constexpr int64_t kOneShotReads = 32 << 10;
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kTrialBytes = 64 << 10;  // from here MPI may be faster, which copies once
// What two ranks hand each other in a step: small enough for slots to leave the caches to the message itself.
constexpr int64_t kExchangeBytes = 64 << 10;
// Of short ones they send the lines down to the cache that they share, and claim those that they read.
constexpr int64_t kDemoteBytes = 1 << 10, kClaimBytes = 8 << 10;
// The output of longer ones is in no near cache: lines are claimed so far ahead of what is written, piece by
// piece.
constexpr int64_t kAheadBytes = 4 << 10, kSlowAheadBytes = 2 << 10, kPieceBytes = 1 << 10;
constexpr int64_t kSlowSumBytes = 32 << 10;  // longer ones of f16 are added up by halves

class ShmTransport final : public ForwardingTransport {
 public:
  ShmTransport(Communicator& comm, MpiGroup& group, std::shared_ptr<ShmNode> node)
      : ForwardingTransport(mpi_transport().make(comm, {})),
        kept_(std::move(node)),
        node_(*kept_),
        numbers_(group.numbers()),
        faster_(group),
        parts_(static_cast<size_t>(node_.local_size())) {}

  std::string name() const override { return "mpi-shm"; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op, Stream&) override {
    const int64_t width = dtype_bytes(dtype), bytes = count * width;
    if (count == 0) return;
    if (size() == 1) return copy_bytes(out, in, bytes);
    if (node_.nodes() > 1) return reduce_between(in, out, count, dtype, op);
    if (bytes <= ShmNode::kTinyBytes) {
      const std::byte* all = node_.exchange_tiny(in, bytes);
      for (int local = 0; local < locals(); ++local) part(local) = all + local * ShmNode::kTinyBytes;
      combine(parts_.data(), locals(), out, count, dtype, op);
    } else if (locals() == 2 && (dtype != DType::f16 || bytes <= kSlowSumBytes)) {
      exchange(in, bytes, out, adds_slowly(dtype),
               [&](int64_t begin, const std::byte* theirs, int64_t length) {
                 combine_with(at(in, begin), theirs, at(out, begin), length / width, dtype, op);
               });
    } else if (bytes * (locals() - 1) <= std::min(kOneShotReads, chunk_bytes())) {
      reduce_at_once(in, out, count, dtype, op);
    } else {
      reduce_in_two(in, out, count, dtype, op);
    }
  }

  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                      Stream& stream) override {
    const int64_t width = dtype_bytes(dtype);
    if (size() == 1) return copy_bytes(out, in, count * width);
    if (!node_.even()) return inner().reduce_scatter(in, out, count, dtype, op, stream);
    if (two_alone())
      return exchange(at(in, other() * count * width), count * width, out, adds_slowly(dtype),
                      [&](int64_t begin, const std::byte* theirs, int64_t length) {
                        combine_with(at(in, rank() * count * width + begin), theirs, at(out, begin),
                                     length / width, dtype, op);
                      });
    // A slot holds every other rank's share of a chunk, each node's beneath one another.
    const int64_t most = node_.slot_bytes() / size() / kLine * kLine / width;
    for (int64_t begin = 0; begin < count; begin += most)
      scatter_chunk(in, out, begin, std::min(most, count - begin), count, dtype, op);
  }

  void all_gather(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (size() == 1) return copy_bytes(out, in, bytes);
    if (node_.nodes() > 1 && !node_.even()) return inner().all_gather(in, out, bytes, stream);
    if (node_.nodes() > 1) return gather_between(in, out, bytes);
    faster_.run(
        CollectiveKind::all_gather, bytes, kTrialBytes, [&] { gather_within(in, out, bytes); },
        [&] { inner().all_gather(in, out, bytes, stream); });
  }

  void broadcast(const void* in, void* out, int64_t bytes, int root, Stream& stream) override {
    if (rank() == root) copy_bytes(out, in, bytes);
    if (size() == 1) return;
    if (node_.nodes() > 1) return broadcast_between(out, bytes, root);
    faster_.run(
        CollectiveKind::broadcast, bytes, 1, [&] { broadcast_within(out, bytes, root); },
        [&] { inner().broadcast(out, out, bytes, root, stream); });
  }

  void all_to_all(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (size() == 1) return copy_bytes(out, in, bytes);
    if (node_.nodes() > 1) return inner().all_to_all(in, out, bytes, stream);
    faster_.run(
        CollectiveKind::all_to_all, bytes, kTrialBytes, [&] { all_to_all_within(in, out, bytes); },
        [&] { inner().all_to_all(in, out, bytes, stream); });
  }

  int64_t trials() const override { return faster_.calls(); }

  void send_recv(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (size() == 1) return copy_bytes(out, in, bytes);
    if (node_.nodes() > 1) return inner().send_recv(in, out, bytes, stream);
    faster_.run(
        CollectiveKind::send_recv, bytes, kTrialBytes, [&] { send_within(in, out, bytes); },
        [&] { inner().send_recv(in, out, bytes, stream); });
  }

 private:
  int64_t chunk_bytes() const { return std::min(kChunkBytes, node_.slot_bytes()); }
  int me() const { return node_.local_rank(); }
  int locals() const { return node_.local_size(); }
  const void*& part(int local) { return parts_[static_cast<size_t>(local)]; }
  Others others() const { return {me(), locals()}; }

  bool two_alone() const { return locals() == 2 && node_.nodes() == 1; }
  int other() const { return 1 - me(); }  // of two

  // Halves, which are widened and rounded.
  static bool adds_slowly(DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; }

  // Of two ranks: each hands the other `bytes` bytes. take(begin, theirs, length) for every piece of the
  // other's, of a multiple of a cache line but for the last; what it writes lies at the same place of `out`.
  // `slow`: it takes longer than moving does.
  template <class Take>
  void exchange(const void* in, int64_t bytes, void* out, bool slow, Take&& take) {
    if (bytes > std::min(slow ? kClaimBytes : kExchangeBytes, node_.slot_bytes()))
      return exchange_long(in, bytes, out, slow, take);
    if (bytes == 0) return;
    node_.begin();
    std::byte* mine = node_.slot_by_turns(me());
    copy_bytes(mine, in, bytes);
    if (bytes <= kDemoteBytes) demote(mine, bytes);
    node_.publish();
    node_.await_all();
    const std::byte* theirs = node_.slot_by_turns(other());
    if (bytes <= kClaimBytes) claim(theirs, bytes);
    take(0, theirs, bytes);
  }
  // In chunks, each written while the one before it is taken: the lines of the one come from memory, of the
  // other from the other core's cache. A slow take hides either itself, if it is told in time what it reads.
  template <class Take>
  void exchange_long(const void* in, int64_t bytes, void* out, bool slow, Take&& take) {
    const int64_t most = std::min(kExchangeBytes, node_.slot_bytes());
    node_.begin();
    copy_bytes(node_.slot_by_turns(me()), in, std::min(most, bytes));
    for (int64_t chunk = 0; chunk < bytes; chunk += most) {
      node_.publish();
      node_.await_all();
      const std::byte* theirs = node_.slot_by_turns(other());
      const int64_t length = std::min(most, bytes - chunk), next = std::min(most, bytes - chunk - length);
      if (next > 0) node_.begin();
      std::byte* mine = node_.slot_by_turns(me());
      for (int64_t begin = 0; begin < length; begin += kPieceBytes) {
        const int64_t place = chunk + begin, ahead = place + kAheadBytes;
        if (slow)
          claim(theirs + begin + kSlowAheadBytes, std::min(kPieceBytes, length - begin - kSlowAheadBytes));
        else
          claim(at(out, ahead), std::min(kPieceBytes, bytes - ahead));
        take(place, theirs + begin, std::min(kPieceBytes, length - begin));
        if (!slow) copy_bytes(mine + begin, at(in, place + length), std::min(kPieceBytes, next - begin));
      }
      if (slow) copy_bytes(mine, at(in, chunk + length), next);
    }
  }
  void swap(const void* in, void* out, int64_t bytes) {
    exchange(in, bytes, out, false, [&](int64_t begin, const std::byte* theirs, int64_t length) {
      copy_bytes(at(out, begin), theirs, length);
    });
  }
  // Of two ranks' numbers, in rank order.
  void combine_with(const void* mine, const void* theirs, void* out, int64_t count, DType dtype,
                    ReduceOp op) {
    part(me()) = mine;
    part(other()) = theirs;
    combine(parts_.data(), 2, out, count, dtype, op);
  }

  // One step: every rank adds up every rank's numbers. Identical on all, since all add in rank order.
  void reduce_at_once(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) {
    const int64_t bytes = count * dtype_bytes(dtype);
    node_.begin();
    const int64_t place = node_.place_for(bytes);
    copy_bytes(node_.slot(me()) + place, in, bytes);
    node_.publish();
    node_.await_all();
    for (int local = 0; local < locals(); ++local) part(local) = node_.slot(local) + place;
    part(me()) = in;
    combine(parts_.data(), locals(), out, count, dtype, op);
  }

  // Reduce-scatter and all-gather of one chunk after the other, a step apart: in a step a rank hands out its
  // numbers of one chunk, adds up its part of the chunk before, and after the meeting collects the others'
  // parts of that.
  void reduce_in_two(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) {
    const int64_t width = dtype_bytes(dtype), unit = kLine / width;
    const int64_t most = chunk_bytes() / width;
    const int64_t chunks = (count + most - 1) / most;
    for (int64_t step = 0; step <= chunks; ++step) {
      node_.begin();
      if (step < chunks) {
        const int64_t begin = step * most, length = std::min(most, count - begin);
        for (int local : others()) {
          const Part its = part_of(length, locals(), local, unit);
          copy_bytes(node_.slot(me()) + its.begin * width, at(in, (begin + its.begin) * width),
                     its.count * width);
        }
      }
      const int64_t begin = (step - 1) * most, length = std::min(most, count - begin);
      if (step > 0) {
        const Part own = part_of(length, locals(), me(), unit);
        for (int local = 0; local < locals(); ++local)
          part(local) = node_.slot_before(local) + own.begin * width;
        part(me()) = at(in, (begin + own.begin) * width);
        combine(parts_.data(), locals(), node_.result(me()), own.count, dtype, op);
        copy_bytes(at(out, (begin + own.begin) * width), node_.result(me()), own.count * width);
      }
      node_.publish();
      node_.await_all();
      if (step == 0) continue;
      for (int local : others()) {
        const Part its = part_of(length, locals(), local, unit);
        copy_bytes(at(out, (begin + its.begin) * width), node_.result(local), its.count * width);
      }
    }
  }

  // Byte movers of one node's ranks.
  void gather_within(const void* in, void* out, int64_t bytes) {
    if (two_alone()) {
      copy_bytes(at(out, rank() * bytes), in, bytes);
      return swap(in, at(out, other() * bytes), bytes);
    }
    for_each_slot(bytes, [&](int64_t begin, int64_t length) {
      node_.begin();
      copy_bytes(node_.slot(me()), at(in, begin), length);
      node_.publish();
      copy_bytes(at(out, rank() * bytes + begin), at(in, begin), length);
      for (int local : others()) {
        node_.await(local);
        copy_bytes(at(out, node_.rank_of(0, local) * bytes + begin), node_.slot(local), length);
      }
    });
  }

  void broadcast_within(void* data, int64_t bytes, int root) {
    for_each_slot(bytes, [&](int64_t begin, int64_t length) {
      node_.begin();
      if (rank() == root) copy_bytes(node_.slot(me()), at(data, begin), length);
      if (rank() == root && length <= kDemoteBytes) demote(node_.slot(me()), length);
      node_.publish();
      if (rank() == root) return;
      node_.await(node_.local_of(root));
      copy_bytes(at(data, begin), node_.slot(node_.local_of(root)), length);
    });
  }

  void all_to_all_within(const void* in, void* out, int64_t bytes) {
    const int64_t most = node_.slot_bytes() / size() / kLine * kLine;
    copy_bytes(at(out, rank() * bytes), at(in, rank() * bytes), bytes);
    if (two_alone()) return swap(at(in, other() * bytes), at(out, other() * bytes), bytes);
    for (int64_t begin = 0; begin < bytes; begin += most) {
      const int64_t length = std::min(most, bytes - begin);
      node_.begin();
      for (int local : others())
        copy_bytes(node_.slot(me()) + local * most, at(in, local * bytes + begin), length);
      node_.publish();
      for (int local : others()) {
        node_.await(local);
        copy_bytes(at(out, local * bytes + begin), node_.slot(local) + me() * most, length);
      }
    }
  }

  void send_within(const void* in, void* out, int64_t bytes) {
    if (two_alone()) return swap(in, out, bytes);
    const int from = (me() + locals() - 1) % locals();
    for_each_slot(bytes, [&](int64_t begin, int64_t length) {
      node_.begin();
      copy_bytes(node_.slot(me()), at(in, begin), length);
      node_.publish();
      node_.await(from);
      copy_bytes(at(out, begin), node_.slot(from), length);
    });
  }

  // Chunks of whole slots.
  template <class Work>
  void for_each_slot(int64_t bytes, Work&& work) {
    for (int64_t begin = 0; begin < bytes; begin += node_.slot_bytes())
      work(begin, std::min(node_.slot_bytes(), bytes - begin));
  }

  // A node adds up its ranks' numbers, each of its lanes a part; the lanes add theirs up over nodes; and the
  // node's ranks collect the parts.
  void reduce_between(const void* in, void* out, int64_t count, DType dtype, ReduceOp op) {
    const int64_t width = dtype_bytes(dtype), unit = kLine / width;
    const int64_t most = node_.slot_bytes() / width;
    for (int64_t begin = 0; begin < count; begin += most) {
      const int64_t length = std::min(most, count - begin);
      node_.begin();
      copy_bytes(node_.slot(me()), at(in, begin * width), length * width);
      node_.publish();
      node_.await_all();
      const Part own = me() < node_.lanes() ? part_of(length, node_.lanes(), me(), unit) : Part{0, 0};
      for (int local = 0; local < locals(); ++local) part(local) = node_.slot(local) + own.begin * width;
      node_.begin();
      combine(parts_.data(), locals(), node_.result(me()), own.count, dtype, op);
      if (own.count > 0)
        check_mpi(MPI_Allreduce(MPI_IN_PLACE, node_.result(me()), static_cast<int>(own.count),
                                numbers_.type(dtype), numbers_.op(dtype, op), node_.lane()),
                  "MPI_Allreduce");
      node_.publish();
      collect_lanes(at(out, begin * width), length, width);
    }
  }

  // After publish(): every lane's part of a chunk, from the lanes' results.
  void collect_lanes(std::byte* out, int64_t length, int64_t width) {
    node_.await_all();
    for (int lane = 0; lane < node_.lanes(); ++lane) {
      const Part its = part_of(length, node_.lanes(), lane, kLine / width);
      copy_bytes(out + its.begin * width, node_.result(lane), its.count * width);
    }
  }

  void broadcast_between(void* data, int64_t bytes, int root) {
    for_each_slot(bytes,
                  [&](int64_t begin, int64_t length) { broadcast_chunk(at(data, begin), length, root); });
  }

  void broadcast_chunk(std::byte* data, int64_t length, int root) {
    const bool source = node_.node() == node_.node_of(root);
    const int local_root = node_.local_of(root);
    node_.begin();
    if (rank() == root) copy_bytes(node_.slot(me()), data, length);
    node_.publish();
    if (source) node_.await(local_root);
    const std::byte* from = source ? node_.slot(local_root) : nullptr;
    node_.begin();
    const Part own = me() < node_.lanes() ? part_of(length, node_.lanes(), me(), kLine) : Part{0, 0};
    if (own.count > 0) {
      if (source) copy_bytes(node_.result(me()), from + own.begin, own.count);
      check_mpi(MPI_Bcast(node_.result(me()), static_cast<int>(own.count), MPI_BYTE, node_.node_of(root),
                          node_.lane()),
                "MPI_Bcast");
    }
    node_.publish();
    collect_lanes(data, length, 1);
  }

  // Each lane gathers its ranks' bytes, one rank a node; the node's ranks collect the lanes'.
  void gather_between(const void* in, void* out, int64_t bytes) {
    const int64_t most = node_.slot_bytes() / node_.nodes() / kLine * kLine;
    for (int64_t begin = 0; begin < bytes; begin += most) {
      const int64_t length = std::min(most, bytes - begin);
      node_.begin();
      check_mpi(MPI_Allgather(at(in, begin), static_cast<int>(length), MPI_BYTE, node_.slot(me()),
                              static_cast<int>(length), MPI_BYTE, node_.lane()),
                "MPI_Allgather");
      node_.publish();
      node_.await_all();
      for (int local = 0; local < locals(); ++local)
        for (int node = 0; node < node_.nodes(); ++node)
          copy_bytes(at(out, node_.rank_of(node, local) * bytes + begin), node_.slot(local) + node * length,
                     length);
    }
  }

  // Every rank hands each rank of its node what is for that one and for those of its lane; adds up; and the
  // lane's ranks reduce and scatter the sums over nodes.
  void scatter_chunk(const void* in, void* out, int64_t begin, int64_t length, int64_t count, DType dtype,
                     ReduceOp op) {
    const int64_t width = dtype_bytes(dtype), piece = (length * width + kLine - 1) / kLine * kLine;
    const int nodes = node_.nodes();
    const auto source = [&](int node, int local) {
      return at(in, (node_.rank_of(node, local) * count + begin) * width);
    };
    node_.begin();
    for (int local : others())
      for (int node = 0; node < nodes; ++node)
        copy_bytes(node_.slot(me()) + (local * nodes + node) * piece, source(node, local), length * width);
    node_.publish();
    node_.await_all();
    for (int node = 0; node < nodes; ++node) {
      for (int local = 0; local < locals(); ++local)
        part(local) = node_.slot(local) + (me() * nodes + node) * piece;
      part(me()) = source(node, me());
      std::byte* sum = nodes == 1 ? at(out, begin * width) : node_.result(me()) + node * length * width;
      combine(parts_.data(), locals(), sum, length, dtype, op);
    }
    if (nodes > 1)
      check_mpi(MPI_Reduce_scatter_block(node_.result(me()), at(out, begin * width), static_cast<int>(length),
                                         numbers_.type(dtype), numbers_.op(dtype, op), node_.lane()),
                "MPI_Reduce_scatter_block");
  }

  std::shared_ptr<ShmNode> kept_;
  ShmNode& node_;
  MpiNumbers& numbers_;
  FasterWay faster_;                // of what moves bytes within the node
  std::vector<const void*> parts_;  // of combine(), by local rank
};

}  // namespace

TransportType mpi_shm_transport() {
  TransportType type;
  type.name = "mpi-shm";
  type.device = "cpu";
  type.help = "memory that the ranks of a node share; MPI between nodes";
  type.make = [](Communicator& comm, const TransportOptions& options) -> std::unique_ptr<Transport> {
    MpiGroup& group = mpi_group(comm);
    return std::make_unique<ShmTransport>(comm, group, group.shm_node(comm, options.ranks_per_node));
  };
  return type;
}

}  // namespace lamina

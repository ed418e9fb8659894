#include "distributed/collectives/collective.hpp"

namespace lamina {
namespace {

double all_but_own(int ranks) {
  return static_cast<double>(ranks - 1) / ranks;
}
double one(int) {
  return 1;
}

CollectiveSizes whole(int64_t elements, int) {
  return {elements, elements, elements, elements};
}

// The buffer in equal parts, as many as ranks; what is left over is left out.
template <bool in_parts, bool out_parts>
CollectiveSizes parted(int64_t elements, int ranks) {
  const int64_t count = elements / ranks;
  return {count * ranks, count, in_parts ? count * ranks : count, out_parts ? count * ranks : count};
}

Collective all_reduce() {
  return {
      .kind = CollectiveKind::all_reduce,
      .name = "all_reduce",
      .help = "every rank gets the sum over ranks",
      .reduces = true,
      .in_place = [](const CollectiveSizes&, int) { return Collective::InPlace{}; },
      .sizes = whole,
      .data =
          [](const CollectiveSizes&, int, int, int64_t i) {
            return CollectiveSource{-1, i};
          },
      .factor = [](int ranks) { return 2 * all_but_own(ranks); },
      .run =
          [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
             Stream& stream) { transport.all_reduce(in, out, sizes.count, dtype, ReduceOp::sum, stream); }};
}

Collective all_gather() {
  return {
      .kind = CollectiveKind::all_gather,
      .name = "all_gather",
      .help = "every rank gets every rank's part",
      .in_place =
          [](const CollectiveSizes& sizes, int rank) {
            return Collective::InPlace{rank * sizes.count, 0};
          },
      .sizes = parted<false, true>,
      .data =
          [](const CollectiveSizes& sizes, int, int, int64_t i) {
            return CollectiveSource{static_cast<int>(i / sizes.count), i % sizes.count};
          },
      .factor = all_but_own,
      .run = [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
                Stream& stream) { transport.all_gather(in, out, sizes.count * dtype_bytes(dtype), stream); }};
}

Collective reduce_scatter() {
  return {.kind = CollectiveKind::reduce_scatter,
          .name = "reduce_scatter",
          .help = "every rank gets its part of the sum",
          .reduces = true,
          .in_place =
              [](const CollectiveSizes& sizes, int rank) {
                return Collective::InPlace{0, rank * sizes.count};
              },
          .sizes = parted<true, false>,
          .data =
              [](const CollectiveSizes& sizes, int rank, int, int64_t i) {
                return CollectiveSource{-1, rank * sizes.count + i};
              },
          .factor = all_but_own,
          .run =
              [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
                 Stream& stream) {
                transport.reduce_scatter(in, out, sizes.count, dtype, ReduceOp::sum, stream);
              }};
}

Collective broadcast() {
  return {.kind = CollectiveKind::broadcast,
          .name = "broadcast",
          .help = "every rank gets rank 0's buffer",
          .in_place = [](const CollectiveSizes&, int) { return Collective::InPlace{}; },
          .sizes = whole,
          .data =
              [](const CollectiveSizes&, int, int, int64_t i) {
                return CollectiveSource{kCollectiveRoot, i};
              },
          .factor = one,
          .run =
              [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
                 Stream& stream) {
                transport.broadcast(in, out, sizes.count * dtype_bytes(dtype), kCollectiveRoot, stream);
              }};
}

Collective all_to_all() {
  return {
      .kind = CollectiveKind::all_to_all,
      .name = "all_to_all",
      .help = "every rank gets its part of every rank's buffer",
      .in_place = nullptr,
      .sizes = parted<true, true>,
      .data =
          [](const CollectiveSizes& sizes, int rank, int, int64_t i) {
            return CollectiveSource{static_cast<int>(i / sizes.count), rank * sizes.count + i % sizes.count};
          },
      .factor = all_but_own,
      .run = [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
                Stream& stream) { transport.all_to_all(in, out, sizes.count * dtype_bytes(dtype), stream); }};
}

Collective send_recv() {
  return {
      .kind = CollectiveKind::send_recv,
      .name = "send_recv",
      .help = "every rank sends to the next, around the ring",
      .in_place = nullptr,
      .sizes = whole,
      .data =
          [](const CollectiveSizes&, int rank, int ranks, int64_t i) {
            return CollectiveSource{(rank + ranks - 1) % ranks, i};
          },
      .factor = one,
      .run = [](Transport& transport, const void* in, void* out, const CollectiveSizes& sizes, DType dtype,
                Stream& stream) { transport.send_recv(in, out, sizes.count * dtype_bytes(dtype), stream); }};
}

}  // namespace

const std::vector<Collective>& collectives() {
  static const std::vector<Collective> all = {all_reduce(), all_gather(), reduce_scatter(),
                                              broadcast(),  all_to_all(), send_recv()};
  return all;
}

const Collective* find_collective(std::string_view name) {
  for (const Collective& one : collectives())
    if (one.name == name) return &one;
  return nullptr;
}

}  // namespace lamina

// NCCL, but for all-reduces of float32, bfloat16 and float16 within a node, which go by kernels that store
// into one another's memory wherever they were measured to be faster (kernels/cuda/oneshot.hpp).
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/forwarding_transport.hpp"
#include "distributed/gpu_places.hpp"
#include "distributed/nccl/nccl.hpp"
#include "distributed/nccl/number_types.hpp"
#include "distributed/nccl/peer_memory.hpp"
#include "distributed/transports.hpp"
#include "distributed/variable.hpp"
#include "kernels/cuda/compressed.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/oneshot.hpp"

namespace lamina {
namespace {

constexpr int64_t kSmallest = 1 << 10, kLargest = 64 << 20;  // measured at set-up
constexpr int kCalls = 20, kRounds = 5;

class OneshotTransport final : public ForwardingTransport {
 public:
  // `forced`: the way at every size; empty: the fastest that is measured.
  OneshotTransport(Communicator& comm, const TransportOptions& options, const std::string& forced)
      : ForwardingTransport(make_nccl(comm, options)) {
    // Between nodes there is no memory to store into, and one rank has nobody to tell.
    if (comm.nodes() > 1 || comm.size() == 1 || comm.size() > kOneshotRanks) return;
    Device& device = *cuda_device();
    memory_ = std::make_unique<PeerMemory>(comm, oneshot_bytes());
    coded_memory_ = std::make_unique<PeerMemory>(comm, compressed_bytes());
    together(comm, [&] {
      epochs_ = device.allocate(oneshot_epoch_bytes());
      coded_epochs_ = device.allocate(compressed_epoch_bytes());
      device.fill(epochs_.data(), 0, epochs_.bytes());
      device.fill(coded_epochs_.data(), 0, coded_epochs_.bytes());
      device.fill(coded_memory_->own(), 0, compressed_bytes());
      Stream stream = device.stream(1);
      oneshot_prepare(memory_->own(), cuda_stream(stream));
      device.synchronize();
    });
    group_.rank = coded_group_.rank = comm.rank();
    group_.ranks = coded_group_.ranks = comm.size();
    for (int rank = 0; rank < comm.size(); ++rank) {
      group_.memory[rank] = memory_->of(rank);
      coded_group_.memory[rank] = coded_memory_->of(rank);
    }
    group_.epochs = epochs_.as<uint32_t>();
    coded_group_.epochs = coded_epochs_.as<uint32_t>();
    comm.barrier();  // nobody stores where another has yet to clear
    if (forced.empty())
      measure(comm, device);
    else
      force(forced);
  }

  std::string name() const override { return "nccl-oneshot"; }

  void release() override {
    for (PeerMemory* memory : {memory_.get(), coded_memory_.get()})
      if (memory != nullptr) memory->close();
    ForwardingTransport::release();
  }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override {
    const std::optional<OneshotType> type = oneshot_type(dtype);
    // Our kernels spread over the whole GPU: beside other work it is NCCL's.
    const bool ours = type && op == ReduceOp::sum && stream.multiprocessors == 0;
    const AllReduceWay way = ours ? way_of(times_, count * dtype_bytes(dtype)) : AllReduceWay::nccl;
    all_reduce_by(way, in, out, count, dtype, op, stream);
  }

  bool all_reduce_coded(Payload payload, int64_t block, const void* in, void* out, int64_t count, DType dtype,
                        float* residual, Stream& stream) override {
    const std::optional<OneshotType> type = oneshot_type(dtype);
    const bool takes = block == 32 || block == 64 || block == 128 || block == 256;
    if (!coded_memory_ || !type || !takes) return false;
    const int64_t most = compressed_limit(size()) / block * block, width = dtype_bytes(dtype);
    for (int64_t begin = 0; begin < count; begin += most) {
      compressed_all_reduce({.group = coded_group_,
                             .code = payload_code(payload),
                             .block = static_cast<int>(block),
                             .in = static_cast<const std::byte*>(in) + begin * width,
                             .out = static_cast<std::byte*>(out) + begin * width,
                             .count = std::min(most, count - begin),
                             .type = *type,
                             .residual = residual == nullptr ? nullptr : residual + begin},
                            cuda_stream(stream));
      check_launch("all-reduce of codes");
    }
    return true;
  }

 private:
  void force(std::string_view way) {
    constexpr int64_t any = INT64_MAX;
    if (way == "one-shot") times_ = {{.bytes = any, .nccl_us = 2, .one_shot_us = 1}};
    if (way == "two-shots") times_ = {{.bytes = any, .nccl_us = 2, .two_shots_us = 1}};
  }

  void all_reduce_by(AllReduceWay way, const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                     Stream& stream) {
    if (way == AllReduceWay::nccl) return inner().all_reduce(in, out, count, dtype, op, stream);
    const bool two_shots = way == AllReduceWay::two_shots;
    const int64_t width = dtype_bytes(dtype), most = oneshot_limit(size(), two_shots) / 16 * 16 / width;
    for (int64_t begin = 0; begin < count; begin += most) {
      oneshot_all_reduce(group_, static_cast<const std::byte*>(in) + begin * width,
                         static_cast<std::byte*>(out) + begin * width, std::min(most, count - begin),
                         *oneshot_type(dtype), two_shots, cuda_stream(stream));
      check_launch("one-shot all-reduce");
    }
  }

  // Times every way of every size in graphs, as layers run them; the slowest rank's best of a few rounds.
  void measure(Communicator& comm, Device& device) {
    Stream stream = device.stream(1);
    Buffer in, out;
    together(comm, [&] {
      in = device.allocate(kLargest);
      out = device.allocate(kLargest);
      device.fill(in.data(), 0x3f000000u, kLargest);  // 0.5
    });
    std::vector<AllReduceTimes> times;
    for (int64_t bytes = kSmallest; bytes <= kLargest; bytes *= 2) {
      const auto time = [&](AllReduceWay way) {
        double best = 0;
        together(comm, [&] {
          const auto reduce = [&] {
            all_reduce_by(way, in.data(), out.data(), bytes / 4, DType::f32, ReduceOp::sum, stream);
          };
          reduce();  // connects, which a capture may not
          const std::unique_ptr<Replay> replay = device.capture(stream, [&] {
            for (int i = 0; i < kCalls; ++i) reduce();
          });
          replay->begin_with([&] {  // ranks meet
            inner().all_reduce(in.data(), out.data(), 1, DType::f32, ReduceOp::sum, stream);
          });
          for (int round = 0; round < kRounds; ++round) {
            const double us = replay->run(1) * 1e6 / kCalls;
            best = round == 0 ? us : std::min(best, us);
          }
        });
        return comm.max(best);
      };
      AllReduceTimes entry{.bytes = bytes, .nccl_us = time(AllReduceWay::nccl)};
      entry.one_shot_us = time(AllReduceWay::one_shot);
      if (size() > 2) entry.two_shots_us = time(AllReduceWay::two_shots);  // of two ranks they are one
      times.push_back(entry);
    }
    times_ = std::move(times);
  }

  std::unique_ptr<PeerMemory> memory_, coded_memory_;
  Buffer epochs_, coded_epochs_;
  OneshotGroup group_, coded_group_;
  std::vector<AllReduceTimes> times_;  // empty: all by NCCL
};

}  // namespace

TransportType nccl_oneshot_transport() {
  TransportType type = nccl_transport();
  type.name = "nccl-oneshot";
  type.help += "; short all-reduces within a node by Lamina's own kernels";
  type.make = [](Communicator& comm, const TransportOptions& options) -> std::unique_ptr<Transport> {
    // Lets tests, and who compares, reach each way at every size.
    const std::string forced = agreed_word("LAMINA_ALL_REDUCE", {"one-shot", "two-shots", "nccl"}, comm);
    return std::make_unique<OneshotTransport>(comm, options, forced);
  };
  return type;
}

}  // namespace lamina

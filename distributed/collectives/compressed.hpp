// An all-reduce that sends codes: another transport beneath, a codec above.
#pragma once

#include <memory>

#include "distributed/collectives/codec.hpp"
#include "distributed/forwarding_transport.hpp"
#include "kernels/buffer.hpp"

namespace lamina {

// all_reduce (sums of f32, f16 and bf16) in two shots: every rank encodes its numbers and sends each rank the
// images of its part; adds up what it got, in float32; and encodes the sums, which all ranks gather. Each
// number is rounded twice, whatever the number of ranks, and all ranks have the same bits. Everything else
// passes through.
//
// With error feedback what encoding lost is added to the next call's numbers, call by call for the same
// count: the mean of many calls comes near the mean of exact sums.
class CompressedTransport final : public ForwardingTransport {
 public:
  // Both outlive it. `most`: the largest count of a call. Throws DeviceError, std::bad_alloc.
  CompressedTransport(Transport& inner, std::unique_ptr<Codec> codec, Device& device, int64_t most,
                      bool error_feedback);

  std::string refusal(CollectiveKind kind, DType dtype, int64_t count) const override;
  // Forgets what earlier calls lost.
  void reset_feedback();
  // What a rank sends and receives over the wire for one all_reduce, at least: its images both ways.
  int64_t wire_bytes(int64_t count) const;

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override;

 private:
  int64_t part_count(int64_t count) const;  // elements of a rank's part: whole blocks

  std::unique_ptr<Codec> codec_;
  Device& device_;
  int64_t most_;
  Buffer sent_, received_, sum_, gathered_;
  Buffer lost_, lost_of_sum_;  // error feedback's; empty without
};

}  // namespace lamina

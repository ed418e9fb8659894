#include "distributed/collectives/compressed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace lamina {

CompressedTransport::CompressedTransport(Transport& inner, std::unique_ptr<Codec> codec, Device& device,
                                         int64_t most, bool error_feedback)
    : ForwardingTransport(inner), codec_(std::move(codec)), device_(device), most_(most) {
  const int64_t image = codec_->image_bytes(part_count(most)), ranks = inner.size();
  sent_ = device.allocate(ranks * image);
  received_ = device.allocate(ranks * image);
  sum_ = device.allocate(image);
  gathered_ = device.allocate(ranks * image);
  if (!error_feedback) return;
  const int64_t width = sizeof(float);
  lost_ = device.allocate(std::max<int64_t>(most, 1) * width);
  lost_of_sum_ = device.allocate(std::max<int64_t>(part_count(most), 1) * width);
  reset_feedback();
}

std::string CompressedTransport::refusal(CollectiveKind kind, DType dtype, int64_t count) const {
  if (kind != CollectiveKind::all_reduce) return inner().refusal(kind, dtype, count);
  if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
    return "a compressed all_reduce sums f32, f16 and bf16";
  if (count > most_) return fmt::format("made for {} elements at most, found {}", most_, count);
  const int64_t bytes = codec_->image_bytes(part_count(count));
  return inner().refusal(CollectiveKind::all_to_all, DType::u8, bytes);
}

void CompressedTransport::reset_feedback() {
  for (Buffer* lost : {&lost_, &lost_of_sum_})
    if (lost->bytes() > 0) device_.fill(lost->data(), 0, lost->bytes());
}

int64_t CompressedTransport::part_count(int64_t count) const {
  const int64_t block = codec_->block(), share = (count + inner().size() - 1) / inner().size();
  return (share + block - 1) / block * block;
}

int64_t CompressedTransport::wire_bytes(int64_t count) const {
  return 2 * (inner().size() - 1) * codec_->image_bytes(part_count(count));
}

void CompressedTransport::all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                                     Stream& stream) {
  if (op != ReduceOp::sum || !refusal(CollectiveKind::all_reduce, dtype, count).empty())
    throw std::invalid_argument("compressed all_reduce: " +
                                (op != ReduceOp::sum ? std::string("expected a sum")
                                                     : refusal(CollectiveKind::all_reduce, dtype, count)));
  float* lost = lost_.bytes() > 0 ? lost_.as<float>() : nullptr;
  if (inner().all_reduce_coded(codec_->payload(), codec_->block(), in, out, count, dtype, lost, stream))
    return;
  const int64_t part = part_count(count), image = codec_->image_bytes(part), width = dtype_bytes(dtype);
  const int ranks = inner().size();
  const auto length = [&](int64_t r) { return std::clamp<int64_t>(count - r * part, 0, part); };
  // Images of whole parts though the last ones may be short, so that all are alike: codes of what is missing
  // are never looked at.
  for (int r = 0; r < ranks; ++r)
    codec_->encode(static_cast<const std::byte*>(in) + r * part * width, dtype, length(r),
                   lost != nullptr ? lost + r * part : nullptr, sent_.data() + r * image, stream);
  inner().all_to_all(sent_.data(), received_.data(), image, stream);
  codec_->sum(received_.data(), ranks, image, length(inner().rank()),
              lost_of_sum_.bytes() > 0 ? lost_of_sum_.as<float>() : nullptr, sum_.data(), stream);
  inner().all_gather(sum_.data(), gathered_.data(), image, stream);
  for (int r = 0; r < ranks; ++r)
    codec_->decode(gathered_.data() + r * image, length(r), static_cast<std::byte*>(out) + r * part * width,
                   dtype, stream);
}

}  // namespace lamina

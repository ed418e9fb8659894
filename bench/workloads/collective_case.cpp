#include "bench/workloads/collective_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "bench/capture.hpp"
#include "bench/sampler.hpp"
#include "distributed/agree.hpp"

namespace lamina {
namespace {

constexpr int64_t kGuardBytes = 64;  // behind the output, which a call must leave alone
constexpr uint32_t kGuardWord = 0x7fc5a5a5;

}  // namespace

CollectiveCase::CollectiveCase(const CollectiveTask& task, WeightStore& store, Communicator& comm)
    : task_(task), comm_(comm), device_(*find_device(task.device)) {
  const int64_t width = dtype_bytes(task.dtype);
  inner_ = transport_ = &store.transport(task.communicator, task.device, comm);
  together(comm, [&] {
    stream_ = device_.stream(task.threads);
    if (task.compression) {
      auto codec = make_codec(task.compression->payload, task.compression->block, task.device);
      if (!codec) throw DeviceError("no codec for " + task.device);
      compressed_ = std::make_unique<CompressedTransport>(*inner_, std::move(codec), device_,
                                                          task.sizes.count, task.compression->error_feedback);
      transport_ = compressed_.get();
    }
    // One pair of buffers for all of a group's cases, as large as the largest needs.
    const int64_t bytes =
        (std::max(task.most_bytes, task.sizes.message * width) + kGuardBytes + 63) / 64 * 64;
    in_buffer_ = store.buffer("in", bytes, device_);
    out_buffer_ = store.buffer("out", bytes, device_);
  });
  const std::string refused = transport_->refusal(task.collective->kind, task.dtype, task.sizes.count);
  if (!refused.empty()) throw SkippedCase(fmt::format("communicator {}: {}", transport_->name(), refused));
  if (task.in_place) in_place_ = task.collective->in_place(task.sizes, comm.rank());
}

std::byte* CollectiveCase::in() const {
  return task_.in_place ? out_buffer_->data() + in_place_.in * dtype_bytes(task_.dtype) : in_buffer_->data();
}

std::byte* CollectiveCase::out() const {
  return out_buffer_->data() + in_place_.out * dtype_bytes(task_.dtype);
}

void CollectiveCase::step(Part /*part*/) {
  task_.collective->run(*transport_, in(), out(), task_.sizes, task_.dtype, stream_);
}

void CollectiveCase::call() {
  step(Part::all);
  device_.synchronize();
  transport_->poll();
}

PreparedCase::Captured CollectiveCase::capture(Part /*part*/) {
  if (task_.device == "cpu") return {};
  // Ranks meet by the transport beneath: a compressed one sums and nothing else.
  return capture_steps(device_, stream_, comm_, {.transport = inner_, .graph = task_.graph},
                       [this] { step(Part::all); });
}

Verification CollectiveCase::run_and_verify() {
  const int64_t width = dtype_bytes(task_.dtype);
  const int rank = comm_.rank(), ranks = comm_.size();
  const int64_t in_bytes = task_.sizes.in * width, out_bytes = task_.sizes.out * width;
  together(comm_, [&] {
    host_.resize(static_cast<size_t>(std::max(in_bytes, out_bytes + kGuardBytes)));
    device_.fill(out_buffer_->data(), kGuardWord, out_buffer_->bytes() / 4 * 4);
    fill_collective(rank, ranks, task_.sizes.in, task_.dtype, host_.data(), task_.threads);
    device_.upload(in(), host_.data(), in_bytes);
    device_.synchronize();
  });
  call();
  Verification result;
  together(comm_, [&] {
    // In place the output may be followed by inputs.
    const int64_t end = out() - out_buffer_->data() + out_bytes,
                  in_end = task_.in_place ? in() - out_buffer_->data() + in_bytes : 0;
    const int64_t guard = in_end > end ? 0 : kGuardBytes;
    device_.download(host_.data(), out(), out_bytes + guard);
    const Compression* compression = task_.compression ? &*task_.compression : nullptr;
    result = verify_collective(*task_.collective, task_.sizes, rank, ranks, task_.dtype, host_.data(),
                               compression, task_.threads);
    std::array<std::byte, sizeof kGuardWord> word{};  // which lies at multiples of 4 of the buffer
    std::memcpy(word.data(), &kGuardWord, sizeof kGuardWord);
    for (int64_t i = 0; i < guard; ++i) {
      if (host_[static_cast<size_t>(out_bytes + i)] == word[static_cast<size_t>(end + i) % word.size()])
        continue;
      result.worst = task_.sizes.out;
      result.error = 1;
      result.tolerance = 0;
      ++result.wrong;
    }
  });
  return result;
}

CheckResult CollectiveCase::check() {
  if (compressed_) compressed_->reset_feedback();
  Verification own = run_and_verify();
  // In place the buffer now holds sums: timing begins with them. Out of place the input is as it was.
  struct Numbers {
    double wrong, error, tolerance, ratio;
  };
  const Numbers mine{static_cast<double>(own.wrong), own.error, own.tolerance, own.ratio()};
  std::vector<Numbers> all(static_cast<size_t>(comm_.size()));
  comm_.all_gather(&mine, all.data(), std::vector<int64_t>(all.size(), sizeof(Numbers)));
  size_t worst = 0;
  double wrong = 0;
  for (size_t r = 0; r < all.size(); ++r) {
    wrong += all[r].wrong;
    if (all[r].ratio > all[worst].ratio) worst = r;
  }
  verified_ = own;
  verified_.wrong = static_cast<int64_t>(wrong);
  CheckResult result;
  result.passed = wrong == 0;
  result.error = all[worst].error;
  result.tolerance = all[worst].tolerance;
  result.where = comm_.broadcast_text(fmt::format("rank {}, element {}", comm_.rank(), own.worst),
                                      static_cast<int>(worst));
  return result;
}

std::string CollectiveCase::failure(const CheckResult& check) const {
  return fmt::format("{} elements are wrong, the worst at {}: error {:.3g}, tolerance {:.3g}",
                     verified_.wrong, check.where, check.error, check.tolerance);
}

std::optional<Quality> CollectiveCase::quality() {
  if (!task_.collective->reduces) return std::nullopt;
  std::array<double, 5> sums = {verified_.error_squared, verified_.norm_squared, verified_.out_squared,
                                verified_.product, verified_.max_abs};
  if (task_.compression && task_.compression->error_feedback && !task_.in_place) {
    // The mean of several calls: what feedback is for.
    const auto count = static_cast<size_t>(task_.sizes.out);
    std::vector<double> mean(count, 0.0);
    std::vector<std::byte> raw(count * static_cast<size_t>(dtype_bytes(task_.dtype)));
    compressed_->reset_feedback();
    for (int i = 0; i < kFeedbackCalls; ++i) {
      call();
      device_.download(raw.data(), out(), static_cast<int64_t>(raw.size()));
      add_collective(raw.data(), static_cast<int64_t>(count), task_.dtype, 1.0 / kFeedbackCalls, mean.data());
    }
    sums = {0, 0, 0, 0, 0};
    for (size_t i = 0; i < count; ++i) {
      double exact = 0;
      for (int r = 0; r < comm_.size(); ++r)
        exact += collective_value(r, comm_.size(), static_cast<int64_t>(i), task_.dtype);
      const double error = mean[i] - exact;
      sums[0] += error * error;
      sums[1] += exact * exact;
      sums[2] += mean[i] * mean[i];
      sums[3] += mean[i] * exact;
      sums[4] = std::max(sums[4], std::abs(error));
    }
  }
  const double max_abs = comm_.max(sums[4]);
  comm_.all_reduce(sums.data(), sums.data(), 4, DType::f64, ReduceOp::sum);
  return quality_of(sums[0], sums[2], sums[1], sums[3], max_abs);
}

void CollectiveCase::describe(Record& record) {
  host_ = {};
  record.set("communicator", transport_->name());
  record.set("wrong_elements", verified_.wrong);
  const double message = static_cast<double>(task_.sizes.message * dtype_bytes(task_.dtype));
  record.set("comm_bytes", compressed_
                               ? compressed_->wire_bytes(task_.sizes.count)
                               : static_cast<int64_t>(message * task_.collective->factor(comm_.size())));
  if (task_.device != "cpu") record.set("graph", task_.graph && transport_->capturable());
}

void CollectiveCase::summarize(Record& record, const Series& series) {
  const double bytes = static_cast<double>(record.integer("message_bytes"));
  const double rate = bytes / record.number("latency_us_p50") * 1e-3;
  record.set("algbw_gb_per_s", rate);
  record.set("busbw_gb_per_s", rate * task_.collective->factor(comm_.size()));
  const double own = series.own_us();
  record.set("latency_us_rank_mean", comm_.sum(own) / comm_.size());
  record.set("latency_us_rank_max", comm_.max(own));
  record.set("latency_us_rank_min", -comm_.max(-own));
}

}  // namespace lamina

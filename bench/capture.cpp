#include "bench/capture.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

namespace lamina {
namespace {

constexpr double kReplaySeconds = 200e-6;  // many times a graph's launch
constexpr double kSharedSeconds = 1.2e-3;  // and of ranks' meeting: begin and end, 5 to 6 µs, are under 0.5 %
constexpr int64_t kReplaySteps = 4096;
constexpr int kLooks = 5;  // at one round, of which the first are of a GPU that has yet to wake

}  // namespace

PreparedCase::Captured capture_steps(Device& device, Stream& stream, Communicator& comm,
                                     const CaptureOptions& options, const std::function<void()>& step) {
  Transport* transport = comm.size() > 1 ? options.transport : nullptr;
  std::function<void()> meet;
  if (transport != nullptr) {
    const auto number = std::make_shared<Buffer>(device.allocate(sizeof(float)));
    device.fill(number->data(), 0, sizeof(float));
    meet = [number, transport, &stream] {
      transport->all_reduce(number->data(), number->data(), 1, DType::f32, ReduceOp::max, stream);
    };
    meet();
  }
  const auto times = [&](int64_t count) {
    const auto work = [step, steps = count * options.rounds] {
      for (int64_t i = 0; i < steps; ++i) step();
    };
    const bool graph = options.graph && (options.transport == nullptr || options.transport->capturable());
    std::unique_ptr<Replay> replay = graph ? device.capture(stream, work) : device.repeat(stream, work);
    if (replay && meet) replay->begin_with(meet);
    return replay;
  };
  std::unique_ptr<Replay> once = times(1);
  if (!once) return {};
  once->run(1);
  // The least of a few: from one that took long by chance too few steps would follow, whose share of a
  // replay's begin and end is many times what it should be.
  const double replay_seconds = meet ? kSharedSeconds : kReplaySeconds;
  double least = comm.max(once->run(1));
  for (int look = 1; look < kLooks && least < replay_seconds; ++look)
    least = std::min(least, comm.max(once->run(1)));
  const double wanted = std::ceil(replay_seconds / std::max(least, 1e-6));
  const int64_t most = std::max<int64_t>(kReplaySteps / options.rounds, 1);
  const int64_t count = std::clamp(static_cast<int64_t>(wanted), int64_t{1}, most);
  return {count == 1 ? std::move(once) : times(count), count * options.rounds};
}

}  // namespace lamina

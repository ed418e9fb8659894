// Steps as a device times them by itself.
#pragma once

#include <functional>

#include "bench/workload.hpp"

namespace lamina {

struct CaptureOptions {
  int64_t rounds = 1;              // steps that belong together: one on each copy of the weights
  Transport* transport = nullptr;  // that steps call; null: they call none
  bool graph = true;  // false: put on the stream one by one, as where the transport cannot be captured
};

// `step` again and again, in whole rounds, until a replay takes long beside its launch; as often on every
// rank. Ranks that share a transport meet before the clock starts. No replay on the CPU. Collective over
// `comm`; `stream` and the transport must outlive the replay. Every step must have run once.
PreparedCase::Captured capture_steps(Device& device, Stream& stream, Communicator& comm,
                                     const CaptureOptions& options, const std::function<void()>& step);

}  // namespace lamina

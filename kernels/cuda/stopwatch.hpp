// Times ways of doing the same on a stream, so that the fastest is kept.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/step.hpp"

namespace lamina {

// Whether what is put on the stream becomes a graph, in which nothing can be timed.
inline bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream, &status), "asking for a capture");
  return status != cudaStreamCaptureStatusNone;
}

// Of a stream that leaves multiprocessors to others, it times while those are taken.
class Stopwatch {
 public:
  explicit Stopwatch(const Stream& on) : stream_(cuda_stream(on)) {
    if (on.multiprocessors > 0) taken_ = cuda_properties().multiprocessors - on.multiprocessors;
    for (cudaEvent_t& event : events_) check_cuda(cudaEventCreate(&event), "making an event");
    if (taken_ == 0) return;
    int least = 0, greatest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    check_cuda(cudaStreamCreateWithPriority(&side_, cudaStreamNonBlocking, greatest), "making a stream");
  }
  ~Stopwatch() {
    for (cudaEvent_t event : events_)
      if (event != nullptr) cudaEventDestroy(event);
    if (side_ != nullptr) cudaStreamDestroy(side_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  // Microseconds of one run, or a negative number where `run` says that it cannot. `before` comes before
  // each, untimed.
  template <class Run, class Before>
  double time(Run&& run, Before&& before) {
    std::vector<double> us;
    // The first warms up, with all of the GPU, and tells how long the others' work must last.
    for (int i = 0; i <= kTimedRuns; ++i) {
      if (i > 0 && taken_ > 0) {
        hold(kHeadStart, stream_);
        // With nearly all of the shared memory that a block may have, so that nothing fits beside it.
        const auto shared = static_cast<int>(std::min<int64_t>(200 << 10, cuda_properties().shared_bytes));
        occupy(taken_, 2 * kHeadStart + static_cast<int64_t>(3e3 * us[0]), shared, side_);
        check_launch("taking multiprocessors");
      }
      before();
      check_cuda(cudaEventRecord(events_[0], stream_), "recording an event");
      if (!run()) return -1;
      check_cuda(cudaEventRecord(events_[1], stream_), "recording an event");
      check_cuda(cudaEventSynchronize(events_[1]), "timing work");
      if (taken_ > 0) check_cuda(cudaStreamSynchronize(side_), "timing work");
      float ms = 0;
      check_cuda(cudaEventElapsedTime(&ms, events_[0], events_[1]), "reading an event");
      us.push_back(1e3 * static_cast<double>(ms));
    }
    std::sort(us.begin() + 1, us.end());
    return us[1 + kTimedRuns / 2];
  }
  template <class Run>
  double time(Run&& run) {
    return time(run, [] {});
  }

 private:
  static constexpr int kTimedRuns = 5;
  static constexpr int64_t kHeadStart = 20'000;  // ns
  cudaStream_t stream_;
  int taken_ = 0;
  std::array<cudaEvent_t, 2> events_{};
  cudaStream_t side_ = nullptr;
};

}  // namespace lamina

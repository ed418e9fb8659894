// How many steps a replay has, with a device that is made up.
#include "bench/capture.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "distributed/communicator.hpp"

namespace lamina {
namespace {

// A step takes 5 µs, and the first replays of any graph as much more as a GPU that has yet to wake.
class SleepyReplay final : public Replay {
 public:
  SleepyReplay(int64_t steps, int slow_runs) : steps_(steps), slow_runs_(slow_runs) {}
  double run(int64_t times) override {
    const double more = slow_runs_-- > 0 ? 60e-6 : 0;
    return more + 5e-6 * static_cast<double>(steps_ * times);
  }

 private:
  int64_t steps_;
  int slow_runs_;
};

class SleepyDevice final : public Device {
 public:
  explicit SleepyDevice(int slow_runs) : slow_runs_(slow_runs) {}
  Buffer allocate(int64_t bytes) override { return Buffer(bytes, 1); }
  void upload(void*, const void*, int64_t) override {}
  void download(void*, const void*, int64_t) override {}
  void fill(void*, uint32_t, int64_t) override {}
  Stream stream(int threads) override { return {.threads = threads}; }
  void synchronize() override {}
  std::unique_ptr<Replay> capture(Stream&, const std::function<void()>& work) override {
    const int64_t before = steps;
    work();
    return std::make_unique<SleepyReplay>(steps - before, slow_runs_);
  }
  std::unique_ptr<Replay> repeat(Stream& stream, std::function<void()> work) override {
    return capture(stream, work);
  }
  void clear(void*, int64_t, Stream&) override {}
  void add(const float*, float*, int64_t, Stream&) override {}
  void round_bf16(const float*, void*, int64_t, Stream&) override {}
  void widen_bf16(const void*, float*, int64_t, Stream&) override {}
  std::unique_ptr<SideStream> beside(int) override { return nullptr; }
  DeviceState state() override { return {}; }
  std::vector<DeviceProbe> probes() override { return {}; }
  int64_t free_bytes() const override { return 0; }
  int64_t cache_bytes() const override { return 0; }
  int64_t steps = 0;

 private:
  int slow_runs_;
};

int64_t steps_captured(int slow_runs, int64_t rounds) {
  SleepyDevice device(slow_runs);
  Stream stream = device.stream(1);
  const std::unique_ptr<Communicator> self = make_self_communicator();
  return capture_steps(device, stream, *self, {.rounds = rounds}, [&] { ++device.steps; }).steps;
}

TEST(Capture, AReplayLastsLongBesideItsLaunch) {
  EXPECT_EQ(steps_captured(0, 1), 40);  // 200 µs
  EXPECT_EQ(steps_captured(0, 8), 40);  // whole rounds
}

TEST(Capture, AGpuThatHasYetToWakeIsLookedAtAgain) {
  EXPECT_EQ(steps_captured(2, 1), 40);
  EXPECT_EQ(steps_captured(4, 1), 40);
}

}  // namespace
}  // namespace lamina

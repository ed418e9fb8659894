// Devices: their memory, their streams, and clocks of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/arithmetic.hpp"
#include "kernels/buffer.hpp"

namespace lamina {

// In-order work on one device. On the CPU calls return when done, and `threads` is the OpenMP team a kernel
// uses. On a GPU they return at once, and Device::synchronize waits.
struct Stream {
  int threads = 1;
  void* handle = nullptr;  // the GPU's own stream; null on the CPU
  // Of a GPU's, how many work on it should take, so that work beside it has the others; 0: all it likes. Who
  // cannot hold itself to it takes more.
  int multiprocessors = 0;
};

// What a device could not do: what, where, and what to do about it.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A kind of device as `lamina list` shows it.
struct DeviceInfo {
  std::string type;  // "cpu", "cuda"
  bool available = false;
  std::string reason;              // why not, and what to do, when it is not available
  std::vector<std::string> units;  // one line a unit: model, memory
  std::vector<std::pair<std::string, std::string>> software;  // what runs it, and its version
};

// How fast a device runs at the moment.
struct DeviceState {
  double clock_mhz = 0;                // of its multiprocessors; 0 where nothing tells
  std::vector<std::string> throttled;  // why it is not faster, where that is not for want of work
};

// Work timed by the device's own clock: captured once and replayed without the host between its kernels, or
// put on the stream anew each time.
class Replay {
 public:
  virtual ~Replay() = default;
  // Runs it so many times, one after the other, and waits. Seconds by the device's own clock. Throws
  // DeviceError.
  virtual double run(int64_t times) = 0;
  // What every run puts on the stream before the clock starts: ranks meet there, so that none is charged with
  // another's lateness.
  void begin_with(std::function<void()> work) { begin_with_ = std::move(work); }

 protected:
  std::function<void()> begin_with_;
};

// A second stream of a GPU, for work beside another stream's, which it goes before. Both calls are captured
// where `main` is.
class SideStream {
 public:
  virtual ~SideStream() = default;
  virtual Stream& stream() = 0;
  // `main` for work beside this stream's: it leaves this one its multiprocessors.
  virtual Stream beside(const Stream& main) const = 0;
  // What is put on the side from now on waits for what `main` holds by now.
  virtual void follow(Stream& main) = 0;
  // And the other way round. A capture of `main` must end joined.
  virtual void join(Stream& main) = 0;
};

// Work whose rate is a limit of the device.
struct DeviceProbe {
  enum class Kind { read, copy, compute, launch };
  Kind kind = Kind::read;
  Arithmetic arithmetic = Arithmetic::f32;  // of compute
  double work = 0;                          // of one run: bytes moved, or operations
  std::function<void(Stream&)> run;
};

// One device with memory of its own. Everything throws DeviceError, and std::bad_alloc on the CPU.
class Device {
 public:
  virtual ~Device() = default;
  // Not filled: reading it before writing is an error.
  virtual Buffer allocate(int64_t bytes) = 0;
  // Between host memory and the device's; return when done.
  virtual void upload(void* to, const void* from, int64_t bytes) = 0;
  virtual void download(void* to, const void* from, int64_t bytes) = 0;
  // Sets `bytes` (a multiple of 4) to copies of a 4-byte word; returns when done.
  virtual void fill(void* to, uint32_t word, int64_t bytes) = 0;
  virtual Stream stream(int threads) = 0;
  // Waits for all work; throws what went wrong in it.
  virtual void synchronize() = 0;
  // Captures what `work` puts on the stream. Null on the CPU, whose work the host's clock times.
  virtual std::unique_ptr<Replay> capture(Stream& stream, const std::function<void()>& work) = 0;
  // The same without a capture: every run calls `work` anew. Null on the CPU.
  virtual std::unique_ptr<Replay> repeat(Stream& stream, std::function<void()> work) = 0;
  // Zeros, in the stream's order.
  virtual void clear(void* to, int64_t bytes, Stream& stream) = 0;
  // y += x, `count` floats in the device's memory, in the stream's order.
  virtual void add(const float* x, float* y, int64_t count, Stream& stream) = 0;
  // Likewise: `to` [count] is x as bfloat16 by the bf16 activation rule (activations.hpp), and back.
  virtual void round_bf16(const float* x, void* to, int64_t count, Stream& stream) = 0;
  virtual void widen_bf16(const void* x, float* to, int64_t count, Stream& stream) = 0;
  // A side that takes so many multiprocessors. Null on the CPU.
  virtual std::unique_ptr<SideStream> beside(int multiprocessors) = 0;
  virtual DeviceState state() = 0;
  // Each holds its buffers while it lives. None on the CPU, whose limits bench/ceilings measures by ranks.
  virtual std::vector<DeviceProbe> probes() = 0;
  virtual int64_t free_bytes() const = 0;   // 0 on the CPU: bench/machine knows what ranks may take
  virtual int64_t cache_bytes() const = 0;  // of its last-level cache; 0 on the CPU, likewise
};

// The device of this type, or null where it is not available (DeviceInfo says why). A process uses one GPU:
// see choose_gpu().
Device* find_device(std::string_view type);

}  // namespace lamina

#include "kernels/device.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/small_floats.hpp"
#include "kernels/wide.hpp"

namespace lamina {
namespace {

// Few numbers are not worth waking threads for.
constexpr int64_t kFew = 1 << 16;

void add_floats(const float* x, float* y, int64_t count, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > kFew)
  for (int64_t i = 0; i < count; ++i) y[i] += x[i];
}

LAMINA_WIDE void round_some(const float* x, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(bf16_activation(x[i])) >> 16);
}
LAMINA_WIDE void widen_some(const uint16_t* x, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = float_of_bf16(x[i]);
}

// change(x, to, count) of each thread's share.
template <class From, class To>
void in_shares(void (*change)(const From*, To*, int64_t), const From* x, To* to, int64_t count, int threads) {
  if (count == 0) return;
  const int64_t each = count > kFew ? (count + threads - 1) / threads : count;
#pragma omp parallel for schedule(static) num_threads(threads) if (count > kFew)
  for (int64_t begin = 0; begin < count; begin += each)
    change(x + begin, to + begin, std::min(each, count - begin));
}

class CpuDevice final : public Device {
 public:
  Buffer allocate(int64_t bytes) override { return Buffer::untouched(bytes); }
  void upload(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void download(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void fill(void* to, uint32_t word, int64_t bytes) override {
    std::fill_n(static_cast<uint32_t*>(to), bytes / 4, word);
  }
  Stream stream(int threads) override { return {.threads = threads}; }
  void synchronize() override {}
  std::unique_ptr<Replay> capture(Stream&, const std::function<void()>&) override { return nullptr; }
  std::unique_ptr<Replay> repeat(Stream&, std::function<void()>) override { return nullptr; }
  void clear(void* to, int64_t bytes, Stream&) override {
    if (bytes > 0) std::memset(to, 0, static_cast<size_t>(bytes));
  }
  void add(const float* x, float* y, int64_t count, Stream& stream) override {
    add_floats(x, y, count, stream.threads);
  }
  void round_bf16(const float* x, void* to, int64_t count, Stream& stream) override {
    in_shares(round_some, x, static_cast<uint16_t*>(to), count, stream.threads);
  }
  void widen_bf16(const void* x, float* to, int64_t count, Stream& stream) override {
    in_shares(widen_some, static_cast<const uint16_t*>(x), to, count, stream.threads);
  }
  std::unique_ptr<SideStream> beside(int /*multiprocessors*/) override { return nullptr; }
  DeviceState state() override { return {}; }
  std::vector<DeviceProbe> probes() override { return {}; }
  int64_t free_bytes() const override { return 0; }
  int64_t cache_bytes() const override { return 0; }

 private:
  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};

}  // namespace

Device* find_device(std::string_view type) {
  static CpuDevice cpu;
  if (type == "cpu") return &cpu;
  return type == "cuda" ? cuda_device() : nullptr;
}

}  // namespace lamina

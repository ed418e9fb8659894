#include "kernels/cuda/cuda_device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cuda/built.hpp"
#include "kernels/cuda/convert.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"
#include "kernels/cuda/nvml.hpp"
#include "kernels/cuda/probes.hpp"
#include "kernels/cuda/step.hpp"
#include "kernels/gpu_rules.hpp"

namespace lamina {
namespace {

constexpr double kGiB = 1 << 30;
constexpr int kOldestOverlap = 90;

const char* remedy(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; use fewer or smaller layers, fewer tokens, or a GPU with more memory";
    case cudaErrorNoKernelImageForDevice:
      return "; build for this GPU: -DCMAKE_CUDA_ARCHITECTURES=native";
    case cudaErrorInsufficientDriver:
      return "; its driver is older than this program's CUDA version: bring a newer one";
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorECCUncorrectable:
      return "; the GPU's context is lost and all that follows fails: run again with --resume";
    default:
      return "";
  }
}

// Empty when this device may be used; whether the program was built for it is another question.
std::string device_problem(int index, cudaDeviceProp* properties) {
  const cudaError_t status = cudaGetDeviceProperties(properties, index);
  if (status != cudaSuccess) return cudaGetErrorString(status);
  return too_old(properties->name, properties->major, properties->minor);
}

void release_device_memory(void* data, int64_t) {
  cudaFree(data);  // fails where the context is lost, and then there is nothing to give back
}

// The host's way to a graph's launch, which the clock must not see: the stream is kept busy meanwhile.
constexpr int64_t kHeadStart = 20'000;  // ns

// Times what is put on a stream between two events.
class TimedReplay : public Replay {
 public:
  explicit TimedReplay(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaEventCreate(&begin_), "making an event");
    check_cuda(cudaEventCreate(&end_), "making an event");
  }
  ~TimedReplay() override {
    if (begin_ != nullptr) cudaEventDestroy(begin_);
    if (end_ != nullptr) cudaEventDestroy(end_);
  }

  double run(int64_t times) override {
    if (begin_with_) begin_with_();
    lead();
    check_cuda(cudaEventRecord(begin_, stream_), "recording an event");
    for (int64_t i = 0; i < times; ++i) launch();
    check_cuda(cudaEventRecord(end_, stream_), "recording an event");
    check_cuda(cudaEventSynchronize(end_), "waiting for timed work");
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, begin_, end_), "reading an event");
    return static_cast<double>(ms) * 1e-3;
  }

 protected:
  virtual void lead() {}
  virtual void launch() = 0;
  cudaStream_t stream_;

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

class GraphReplay final : public TimedReplay {
 public:
  GraphReplay(cudaStream_t stream, cudaGraph_t graph) : TimedReplay(stream) {
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "making a graph's executable");
    check_cuda(cudaGraphUpload(graph_, stream_), "uploading a graph");
  }
  ~GraphReplay() override {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

 private:
  void lead() override {
    hold(kHeadStart, stream_);
    check_launch("waiting before the clock starts");
  }
  void launch() override { check_cuda(cudaGraphLaunch(graph_, stream_), "launching a graph"); }
  cudaGraphExec_t graph_ = nullptr;
};

class DirectReplay final : public TimedReplay {
 public:
  DirectReplay(cudaStream_t stream, std::function<void()> work)
      : TimedReplay(stream), work_(std::move(work)) {}

 private:
  void launch() override { work_(); }
  std::function<void()> work_;
};

class CudaSideStream final : public SideStream {
 public:
  CudaSideStream(int own, int all) : all_(all) {
    stream_.multiprocessors = std::clamp(own, 0, all - 2);
    // Of what may start at the same time, this stream's blocks go first: the main stream's leave none free.
    int least = 0, greatest = 0;
    cudaStream_t made = nullptr;
    check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
    check_cuda(cudaStreamCreateWithPriority(&made, cudaStreamNonBlocking, greatest), "making a stream");
    stream_.handle = made;
    check_cuda(cudaEventCreateWithFlags(&followed_, cudaEventDisableTiming), "making an event");
    check_cuda(cudaEventCreateWithFlags(&joined_, cudaEventDisableTiming), "making an event");
  }
  ~CudaSideStream() override {
    if (followed_ != nullptr) cudaEventDestroy(followed_);
    if (joined_ != nullptr) cudaEventDestroy(joined_);
    if (stream_.handle != nullptr) cudaStreamDestroy(cuda_stream(stream_));
  }
  Stream& stream() override { return stream_; }
  Stream beside(const Stream& main) const override {
    const int own = stream_.multiprocessors;
    return {main.threads, main.handle, own == 0 ? 0 : all_ - own};
  }
  void follow(Stream& main) override { order(main, followed_, stream_); }
  void join(Stream& main) override { order(stream_, joined_, main); }

 private:
  static void order(const Stream& before, cudaEvent_t event, const Stream& after) {
    check_cuda(cudaEventRecord(event, cuda_stream(before)), "recording an event");
    check_cuda(cudaStreamWaitEvent(cuda_stream(after), event, 0), "ordering streams");
  }
  int all_;
  Stream stream_;
  cudaEvent_t followed_ = nullptr, joined_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const cudaDeviceProp& properties) : nvml_(bus_id(properties)) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    properties_.multiprocessors = properties.multiProcessorCount;
    properties_.capability = properties.major * 10 + properties.minor;
    properties_.cache_bytes = properties.l2CacheSize;
    properties_.shared_bytes = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
    properties_.shared_of_multiprocessor = static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
    properties_.overlaps = properties_.capability >= kOldestOverlap && built().ptx >= kOldestOverlap;
  }

  Buffer allocate(int64_t bytes) override {
    if (bytes <= 0) return {};
    const int64_t free = free_bytes();
    if (bytes > free)
      throw DeviceError(fmt::format("cuda: {:.2f} GiB of device memory are needed, {:.2f} GiB are free{}",
                                    static_cast<double>(bytes) / kGiB, static_cast<double>(free) / kGiB,
                                    remedy(cudaErrorMemoryAllocation)));
    void* data = nullptr;
    check_cuda(cudaMalloc(&data, static_cast<size_t>(bytes)), "allocating device memory");
    return {data, bytes, release_device_memory};
  }

  void upload(void* to, const void* from, int64_t bytes) override {
    copy(to, from, bytes, cudaMemcpyHostToDevice, "copying to the GPU");
  }
  void download(void* to, const void* from, int64_t bytes) override {
    copy(to, from, bytes, cudaMemcpyDeviceToHost, "copying from the GPU");
  }

  void fill(void* to, uint32_t word, int64_t bytes) override {
    if (bytes < 4) return;
    fill_words(static_cast<uint32_t*>(to), word, bytes / 4, stream_);
    check_launch("filling device memory");
    synchronize();
  }

  Stream stream(int threads) override { return {threads, stream_}; }

  void synchronize() override { check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

  std::unique_ptr<Replay> capture(Stream& stream, const std::function<void()>& work) override {
    const cudaStream_t on = cuda_stream(stream);
    synchronize();
    check_cuda(cudaStreamBeginCapture(on, cudaStreamCaptureModeThreadLocal), "beginning a capture");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(on, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();  // the capture's own end, not the trouble
      throw;
    }
    check_cuda(cudaStreamEndCapture(on, &graph), "ending a capture");
    return std::make_unique<GraphReplay>(on, graph);
  }

  std::unique_ptr<Replay> repeat(Stream& stream, std::function<void()> work) override {
    return std::make_unique<DirectReplay>(cuda_stream(stream), std::move(work));
  }

  void clear(void* to, int64_t bytes, Stream& stream) override {
    if (bytes > 0)
      check_cuda(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), cuda_stream(stream)), "clearing memory");
  }

  void add(const float* x, float* y, int64_t count, Stream& stream) override {
    add_floats(x, count, y, cuda_stream(stream));
    check_launch("adding outputs");
  }

  void round_bf16(const float* x, void* to, int64_t count, Stream& stream) override {
    round_activations(x, count, false, to, cuda_stream(stream));
    check_launch("rounding outputs");
  }
  void widen_bf16(const void* x, float* to, int64_t count, Stream& stream) override {
    lamina::widen_bf16(x, count, to, cuda_stream(stream));
    check_launch("widening outputs");
  }

  std::unique_ptr<SideStream> beside(int multiprocessors) override {
    return std::make_unique<CudaSideStream>(multiprocessors, properties_.multiprocessors);
  }

  DeviceState state() override { return nvml_.state(); }
  std::vector<DeviceProbe> probes() override { return cuda_probes(*this); }

  int64_t free_bytes() const override {
    size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "asking for free device memory");
    return static_cast<int64_t>(free);
  }
  int64_t cache_bytes() const override { return properties_.cache_bytes; }
  const CudaProperties& properties() const { return properties_; }

 private:
  static std::string bus_id(const cudaDeviceProp& properties) {
    return fmt::format("{:08x}:{:02x}:{:02x}.0", properties.pciDomainID, properties.pciBusID,
                       properties.pciDeviceID);
  }
  void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, const char* what) {
    if (bytes <= 0) return;
    check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream_), what);
    check_cuda(cudaStreamSynchronize(stream_), what);
  }

  CudaProperties properties_;
  cudaStream_t stream_ = nullptr;  // lives as long as the process
  Nvml nvml_;
};

int chosen_gpu = 0;  // by choose_gpu(), around the node's GPUs

int own_gpu(int count) {
  return chosen_gpu % count;
}

// Empty when kernels run on the process's own GPU, which becomes the current one.
const std::string& own_gpu_problem() {
  static const std::string problem = []() -> std::string {
    int count = 0;
    cudaDeviceProp properties{};
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0)
      return fmt::format("{}; check that nvidia-smi lists one and that its driver supports this CUDA version",
                         status != cudaSuccess ? fmt::format("no usable GPU: {}", cudaGetErrorString(status))
                                               : "no GPU answers");
    if (std::string old = device_problem(own_gpu(count), &properties); !old.empty()) return old;
    status = cudaSetDevice(own_gpu(count));
    if (status == cudaSuccess) status = built().status;
    if (status == cudaSuccess) return "";
    cudaGetLastError();
    return fmt::format("{} of compute capability {}.{}: {}{}", properties.name, properties.major,
                       properties.minor, cudaGetErrorString(status), remedy(status));
  }();
  return problem;
}

CudaDevice* the_device() {
  // Never destroyed: CUDA's own state may be gone before static objects are.
  static CudaDevice* const device = []() -> CudaDevice* {
    if (!own_gpu_problem().empty()) return nullptr;
    int count = 0;
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceCount(&count), "counting GPUs");
    check_cuda(cudaGetDeviceProperties(&properties, own_gpu(count)), "asking for a GPU's properties");
    return new CudaDevice(properties);
  }();
  return device;
}

DeviceInfo ask_for_devices() {
  DeviceInfo info;
  info.type = "cuda";
  info.reason = own_gpu_problem();
  info.available = info.reason.empty();
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return info;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (device_problem(i, &properties).empty())
      info.units.push_back(fmt::format("{}, compute capability {}.{}, {:.1f} GiB, {} MiB of L2",
                                       properties.name, properties.major, properties.minor,
                                       static_cast<double>(properties.totalGlobalMem) / kGiB,
                                       properties.l2CacheSize >> 20));
  }
  int runtime = 0;
  if (const std::string driver = nvidia_driver(); !driver.empty())
    info.software.emplace_back("nvidia_driver", driver);
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess)
    info.software.emplace_back("cuda", fmt::format("{}.{}", runtime / 1000, runtime % 1000 / 10));
  const auto cublas = static_cast<int>(cublasLtGetVersion());
  info.software.emplace_back("cublaslt",
                             fmt::format("{}.{}.{}", cublas / 10000, cublas % 10000 / 100, cublas % 100));
  return info;
}

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what is thrown is not found again by the next launch; a lost context stays lost
  throw DeviceError(fmt::format("cuda: {}: {}{}", what, cudaGetErrorString(status), remedy(status)));
}

const CudaProperties& cuda_properties() {
  if (the_device() == nullptr) throw DeviceError("cuda: no usable GPU; `lamina list` says why");
  return the_device()->properties();
}

std::string cuda_bus_id() {
  cuda_properties();  // throws where there is no GPU, and makes this process's the current one
  int index = 0;
  check_cuda(cudaGetDevice(&index), "asking for the current GPU");
  char bus[32] = "";
  check_cuda(cudaDeviceGetPCIBusId(bus, sizeof bus, index), "asking for a GPU's PCI bus id");
  return bus;
}

void choose_gpu(int local_rank) {
  chosen_gpu = std::max(local_rank, 0);
}

void cuda_silu_gate(const float* gate_up, void* hidden, InputType type, int64_t tokens, int64_t width,
                    Stream& stream) {
  const HiddenType as = type == InputType::bf16  ? HiddenType::bf16
                        : type == InputType::f16 ? HiddenType::f16
                                                 : HiddenType::f32;
  silu_gate(gate_up, hidden, as, tokens, width, cuda_stream(stream));
  check_launch("the gate between projections");
}

Device* cuda_device() {
  return the_device();
}

const DeviceInfo& cuda_device_info() {
  static const DeviceInfo info = ask_for_devices();
  return info;
}

}  // namespace lamina

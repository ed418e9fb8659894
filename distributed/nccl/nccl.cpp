#include "distributed/nccl/nccl.hpp"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "distributed/agree.hpp"
#include "distributed/gpu_places.hpp"
#include "distributed/set_up.hpp"
#include "distributed/transports.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/cuda/error.hpp"

namespace lamina {
namespace {

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::f16:
      return ncclFloat16;
    case DType::bf16:
      return ncclBfloat16;
    case DType::i8:
      return ncclInt8;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
  }
  throw std::logic_error("nccl_type: unknown data type");
}

ncclRedOp_t nccl_op(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
}

// What NCCL's own thread has come to, after a call that returned `begun`.
SetUpState state_of(ncclResult_t begun, ncclComm_t comm) {
  ncclResult_t state = begun;
  if (begun == ncclSuccess || begun == ncclInProgress)
    if (const ncclResult_t asked = ncclCommGetAsyncError(comm, &state); asked != ncclSuccess) state = asked;
  if (state == ncclSuccess) return {.going = false};
  if (state == ncclInProgress) return {.going = true};
  const char* why = ncclGetLastError(comm);
  return {.going = false,
          .problem = fmt::format("setting up: {}{}{}; NCCL_DEBUG=INFO says more", ncclGetErrorString(state),
                                 why != nullptr && *why != '\0' ? ": " : "", why != nullptr ? why : "")};
}

constexpr const char* kSlowSetUp =
    "a rank may have died, or the ranks' hosts do not reach one another; NCCL_DEBUG=INFO says where it "
    "waits, NCCL_SOCKET_IFNAME chooses the network";

// Owns the communicator. NCCL's calls on a non-blocking one each start a thread, whose cost would be timed;
// so the ranks meet on a non-blocking one, which can be given up when the time is over, and split off a
// blocking one of the same ranks for the work.
class NcclComm {
 public:
  NcclComm(Communicator& comm, double timeout_seconds) : comm_(comm), timeout_seconds_(timeout_seconds) {
    // A program that uses NVLink's multicast can put other programs' GPUs out of service: never here.
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    ncclUniqueId id{};
    together(comm, [&] {
      if (comm.rank() == 0) check_nccl(ncclGetUniqueId(&id), "making an id");
    });
    comm.broadcast(&id, sizeof id, 0);
    AgreedSetUp set_up(comm, "nccl", timeout_seconds, kSlowSetUp, [this] { give_up(); });
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t begun = ncclCommInitRankConfig(&meeting_, comm.size(), id, comm.rank(), &config);
    set_up.settle([&] { return state_of(begun, meeting_); });
    split(set_up, 0, &work_);
    watcher_ = std::thread([this] { watch(); });
  }
  ~NcclComm() {
    stop_watching();
    give_up();
  }
  NcclComm(const NcclComm&) = delete;
  NcclComm& operator=(const NcclComm&) = delete;

  // Before the ranks part: another's end would be taken for its loss.
  void stop_watching() {
    if (!watcher_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    wake_.notify_all();
    watcher_.join();
  }

  ncclComm_t get() const { return work_; }
  // Collective where it is the first on a stream that takes so many multiprocessors, which no capture may be.
  ncclComm_t of(const Stream& stream) {
    const int blocks = stream.multiprocessors;
    if (blocks == 0) return work_;
    if (narrow_ == nullptr || blocks != narrow_blocks_) {
      AgreedSetUp set_up(comm_, "nccl", timeout_seconds_, kSlowSetUp, [] {});
      ncclComm_t made = nullptr;
      split(set_up, blocks, &made);
      const std::lock_guard lock(mutex_);  // the watching thread asks it
      if (narrow_ != nullptr) ncclCommDestroy(narrow_);
      narrow_ = made;
      narrow_blocks_ = blocks;
    }
    return narrow_;
  }

  void poll() {
    const std::lock_guard lock(mutex_);
    const std::string why = trouble();
    if (!why.empty()) throw DeviceError(why);
  }

 private:
  // A blocking one of the same ranks, whose calls take so many blocks of threads at most; 0: NCCL's choice.
  void split(AgreedSetUp& set_up, int blocks, ncclComm_t* made) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 1;
    if (blocks > 0) config.maxCTAs = blocks;
    const ncclResult_t begun = ncclCommSplit(meeting_, 0, comm_.rank(), made, &config);
    set_up.settle([&] { return state_of(begun, meeting_); });
  }

  // What went wrong since calls returned, on either communicator; empty: nothing. Under mutex_.
  std::string trouble() const {
    for (ncclComm_t one : {work_, narrow_}) {
      if (one == nullptr) continue;
      ncclResult_t state = ncclSuccess;
      if (const ncclResult_t asked = ncclCommGetAsyncError(one, &state); asked != ncclSuccess) state = asked;
      if (state == ncclSuccess || state == ncclInProgress) continue;
      const char* why = ncclGetLastError(one);
      return fmt::format("nccl: {}{}{}; another rank may have died; NCCL_DEBUG=INFO says more",
                         ncclGetErrorString(state), why != nullptr && *why != '\0' ? ": " : "",
                         why != nullptr ? why : "");
    }
    return "";
  }

  // A rank that waits for a lost one's data waits in the GPU, for ever: somebody else must look.
  void watch() {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kLook, [this] { return over_; }))
      if (const std::string why = trouble(); !why.empty()) abort_job(comm_, why);
  }

  // Without the other ranks: no communication.
  void give_up() {
    for (ncclComm_t one : {narrow_, work_, meeting_})
      if (one != nullptr) ncclCommAbort(one);
    narrow_ = work_ = meeting_ = nullptr;
  }

  static constexpr std::chrono::milliseconds kLook{200};
  Communicator& comm_;
  double timeout_seconds_;
  ncclComm_t meeting_ = nullptr, work_ = nullptr, narrow_ = nullptr;
  int narrow_blocks_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;
  std::thread watcher_;
};

class NcclTransport final : public Transport {
 public:
  NcclTransport(Communicator& comm, const TransportOptions& options)
      : rank_(comm.rank()), size_(comm.size()), comm_(comm, options.timeout_seconds) {}

  std::string name() const override { return "nccl"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_reduce(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                  Stream& stream) override {
    if (count == 0) return;
    check_nccl(ncclAllReduce(in, out, static_cast<size_t>(count), nccl_type(dtype), nccl_op(op),
                             comm_.of(stream), cuda_stream(stream)),
               "all-reduce");
  }
  void reduce_scatter(const void* in, void* out, int64_t count, DType dtype, ReduceOp op,
                      Stream& stream) override {
    if (count == 0) return;
    check_nccl(ncclReduceScatter(in, out, static_cast<size_t>(count), nccl_type(dtype), nccl_op(op),
                                 comm_.get(), cuda_stream(stream)),
               "reduce-scatter");
  }
  void all_gather(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    check_nccl(
        ncclAllGather(in, out, static_cast<size_t>(bytes), ncclUint8, comm_.get(), cuda_stream(stream)),
        "all-gather");
  }
  void broadcast(const void* in, void* out, int64_t bytes, int root, Stream& stream) override {
    if (bytes == 0) return;
    check_nccl(
        ncclBroadcast(in, out, static_cast<size_t>(bytes), ncclUint8, root, comm_.get(), cuda_stream(stream)),
        "broadcast");
  }
  void all_to_all(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    grouped([&] {
      for (int peer = 0; peer < size_; ++peer) {
        send(static_cast<const std::byte*>(in) + peer * bytes, bytes, peer, stream);
        receive(static_cast<std::byte*>(out) + peer * bytes, bytes, peer, stream);
      }
    });
  }
  void send_recv(const void* in, void* out, int64_t bytes, Stream& stream) override {
    if (bytes == 0) return;
    grouped([&] {
      send(in, bytes, (rank_ + 1) % size_, stream);
      receive(out, bytes, (rank_ + size_ - 1) % size_, stream);
    });
  }

  void poll() override { comm_.poll(); }
  void release() override { comm_.stop_watching(); }

 private:
  template <class Calls>
  static void grouped(Calls&& calls) {
    check_nccl(ncclGroupStart(), "beginning a group");
    try {
      calls();
    } catch (...) {
      ncclGroupEnd();
      throw;
    }
    check_nccl(ncclGroupEnd(), "ending a group");
  }
  void send(const void* from, int64_t bytes, int peer, Stream& stream) {
    check_nccl(ncclSend(from, static_cast<size_t>(bytes), ncclUint8, peer, comm_.get(), cuda_stream(stream)),
               "send");
  }
  void receive(void* to, int64_t bytes, int peer, Stream& stream) {
    check_nccl(ncclRecv(to, static_cast<size_t>(bytes), ncclUint8, peer, comm_.get(), cuda_stream(stream)),
               "receive");
  }

  int rank_, size_;
  NcclComm comm_;
};

}  // namespace

void check_nccl(ncclResult_t status, const char* call) {
  if (status == ncclSuccess) return;
  const char* why = ncclGetLastError(nullptr);
  throw DeviceError(fmt::format("nccl: {}: {}{}{}; NCCL_DEBUG=INFO says more", call,
                                ncclGetErrorString(status), why != nullptr && *why != '\0' ? ": " : "",
                                why != nullptr ? why : ""));
}

std::string nccl_absence() {
  const DeviceInfo& info = cuda_device_info();
  return info.available ? "" : info.reason;
}

std::unique_ptr<Transport> make_nccl(Communicator& comm, const TransportOptions& options) {
  require_own_gpus(comm);
  return std::make_unique<NcclTransport>(comm, options);
}

TransportType nccl_transport() {
  int version = 0;
  ncclGetVersion(&version);
  TransportType type;
  type.name = "nccl";
  type.device = "cuda";
  type.help =
      fmt::format("NCCL {}.{}.{}, one rank a GPU", version / 10000, version / 100 % 100, version % 100);
  type.absent = nccl_absence();
  type.make = make_nccl;
  return type;
}

}  // namespace lamina

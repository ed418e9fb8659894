// `lamina run` with one kernel that misbehaves: FAULT is what it does, on the launch's last rank or on all of
// them.
//   fault_program FAULT CONFIG OUT [resume]
//   fault_program FAULT WEIGHTS.safetensors OUT    `lamina compress` instead, by `lowrank`
//   none    nothing
//   scale   results 1 % too large        stale   writes nothing
//   drop    one rank's part gives zeros  swap    every rank computes the next rank's part
//   refuse  cannot be made               slow    sleeps in every call
//   throw   throws in a timed step       hang    sleeps for ever in a timed step
//   die     the process is killed in a timed step, of the second group of cases
//   gpu-throw, gpu-hang, gpu-die         the same of a GPU's kernel, between two collectives of its check: a
//                                        timed step is replayed from a graph, and calls nobody
//   gpu-stray                            writes where the GPU has no memory, in a timed step
//   gpu-full                             nothing, but only 8 GiB of the GPU's memory are free
// or one communicator:
//   garble  float32 numbers that ranks gather, such as a factor of a matrix, come out wrong in places
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/compress_command.hpp"
#include "bench/runner.hpp"
#include "distributed/forwarding_communicator.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/json.hpp"
#include "kernels/registry.hpp"

namespace {

using namespace lamina;

// Calls that prepare, check and calibrate stay below this: what misbehaves later does so in a timed step.
constexpr int kCallsBeforeFault = 60;
constexpr int kCallsBeforeGpuFault = 2;
constexpr int kCallsBeforeStray = 8;  // check and quality call it less often, a graph of steps more often

constexpr int64_t kLeftFree = int64_t{8} << 30;
constexpr uintptr_t kNowhere = 0x10000;  // aligned as any buffer is

class FaultyLayer : public Layer {
 public:
  FaultyLayer(std::unique_ptr<Layer> right, std::string fault, int64_t outputs, bool here)
      : right_(std::move(right)), fault_(std::move(fault)), outputs_(outputs), here_(here) {
    if (!fault_.starts_with("gpu-")) return;
    fault_ = fault_.substr(4);
    calls_ = kCallsBeforeFault - (fault_ == "stray" ? kCallsBeforeStray : kCallsBeforeGpuFault);
  }
  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    if (fault_ == "stale") return;
    if (fault_ == "stray" && here_ && ++calls_ >= kCallsBeforeFault) y = reinterpret_cast<float*>(kNowhere);
    right_->forward(x, y, tokens, stream);
    if (fault_ == "stray") return;
    if (fault_ == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(300));
    if (fault_ == "drop" && here_) std::fill_n(y, tokens * outputs_, 0.0f);
    if (fault_ == "scale")
      for (int64_t i = 0; i < tokens * outputs_; ++i) y[i] *= 1.01f;
    if (!here_ || ++calls_ < kCallsBeforeFault) return;
    if (fault_ == "throw") throw std::runtime_error("the kernel met a planted fault");
    if (fault_ == "hang") std::this_thread::sleep_for(std::chrono::hours(1));
    if (fault_ == "die") std::raise(SIGKILL);
  }
  Cost cost(int64_t tokens) const override { return right_->cost(tokens); }
  int64_t weight_bytes() const override { return right_->weight_bytes(); }

 private:
  std::unique_ptr<Layer> right_;
  std::string fault_;
  int64_t outputs_;
  bool here_;
  int calls_ = 0;
};

class GarblingCommunicator : public ForwardingCommunicator {
 public:
  // Does not own `inner`, or does.
  explicit GarblingCommunicator(Communicator& inner) : ForwardingCommunicator(inner) {}
  explicit GarblingCommunicator(std::unique_ptr<Communicator> inner)
      : ForwardingCommunicator(*inner), owned_(std::move(inner)) {}
  void all_gather(const void* in, void* out, const std::vector<int64_t>& bytes) override {
    inner_.all_gather(in, out, bytes);
    int64_t count = 0;
    for (const int64_t part : bytes) count += part / static_cast<int64_t>(sizeof(float));
    if (count < kMany) return;
    for (int64_t i = 0; i < count; i += 7) static_cast<float*>(out)[i] *= 1.5f;
  }
  std::unique_ptr<Communicator> subset(int ranks) override {
    std::unique_ptr<Communicator> part = inner_.subset(ranks);
    return part ? std::make_unique<GarblingCommunicator>(std::move(part)) : nullptr;
  }

 private:
  static constexpr int64_t kMany = 1000;
  std::unique_ptr<Communicator> owned_;
};

// The leaf that the next rank packs meanwhile: parts are of equal size here, so nothing but the result
// tells.
Leaf next_ranks(const Leaf& leaf, Communicator& world) {
  const std::vector<std::byte> own = serialize(leaf);
  const auto size = static_cast<int64_t>(own.size());
  std::vector<std::byte> all(own.size() * static_cast<size_t>(world.size()));
  world.all_gather(own.data(), all.data(), std::vector<int64_t>(static_cast<size_t>(world.size()), size));
  return deserialize(all.data() + (world.rank() + 1) % world.size() * size, size);
}

}  // namespace

int main(int argc, char** argv) {
  Launch launch(&argc, &argv);
  Communicator& world = launch.world();
  int exit_code = kExitUsage;
  try {
    if (argc != 4 && argc != 5) throw std::runtime_error("expected FAULT CONFIG OUT [resume]");
    const std::string fault = argv[1];
    choose_gpu(world.local_rank());
    Registry registry;
    register_kernels(registry);
    const Kernel* right = nullptr;
    const bool on_gpu = fault.starts_with("gpu-");
    for (const Kernel* one : registry.kernels(on_gpu ? "cuda" : "cpu"))
      if (right == nullptr && one->name == (on_gpu ? "cublaslt" : "openblas")) right = one;
    if (right == nullptr) throw std::runtime_error("found no kernel for " + fault + " in this build");
    Kernel faulty = *right;
    faulty.name = "faulty";
    faulty.preference = -1000;
    const bool last = world.rank() == world.size() - 1;
    faulty.make = [make = right->make, fault, last, &world](const Leaf& leaf, const LayerOptions& options) {
      if (fault == "refuse") throw std::runtime_error("the kernel met a planted fault");
      if (fault == "swap")
        return std::make_unique<FaultyLayer>(make(next_ranks(leaf, world), options), fault, leaf.rows, last);
      return std::make_unique<FaultyLayer>(make(leaf, options), fault, leaf.rows, last);
    };
    registry.add(faulty);
    Buffer held;
    if (Device* gpu = fault == "gpu-full" ? find_device("cuda") : nullptr)
      held = gpu->allocate(std::max(gpu->free_bytes() - kLeftFree, int64_t{0}));
    RunOptions options;
    GarblingCommunicator garbling(world);
    Communicator& comm = fault == "garble" ? garbling : world;
    if (std::string_view(argv[2]).ends_with(".safetensors")) {
      CompressOptions compress;
      compress.model_path = argv[2];
      compress.scheme = R"({"type": "lowrank", "rank": 48})";
      compress.out_file = argv[3];
      exit_code = compress_file(compress, registry, comm);
    } else {
      options.config_path = argv[2];
      options.config_text = read_text_file(argv[2]);
      options.out_dir = argv[3];
      options.resume = argc == 5;
      exit_code = run(options, registry, comm);
    }
  } catch (const std::exception& e) {
    if (world.size() > 1) abort_job(world, e.what());
    std::fprintf(stderr, "%s\n", e.what());
    exit_code = kExitFailed;
  }
  launch.finalize();
  return exit_code;
}

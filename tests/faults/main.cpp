// `lamina run` with one kernel that misbehaves: FAULT is what it does, on the launch's last rank or on all of
// them.
//   fault_program FAULT CONFIG OUT
//   scale   results 1 % too large        stale   writes nothing
//   throw   throws in a timed step       hang    sleeps for ever in a timed step
//   die     the process is killed in a timed step, of the second group of cases
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "bench/runner.hpp"
#include "distributed/communicator.hpp"
#include "kernels/json.hpp"
#include "kernels/registry.hpp"

namespace {

using namespace lamina;

// Calls that prepare, check and calibrate stay below this: what misbehaves later does so in a timed step.
constexpr int kCallsBeforeFault = 60;

class FaultyLayer : public Layer {
 public:
  FaultyLayer(std::unique_ptr<Layer> right, std::string fault, int64_t outputs, bool here)
      : right_(std::move(right)), fault_(std::move(fault)), outputs_(outputs), here_(here) {}
  void forward(const float* x, float* y, int64_t tokens, Stream& stream) override {
    if (fault_ == "stale") return;
    right_->forward(x, y, tokens, stream);
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

}  // namespace

int main(int argc, char** argv) {
  Launch launch(&argc, &argv);
  Communicator& world = launch.world();
  int exit_code = kExitUsage;
  try {
    if (argc != 4) throw std::runtime_error("expected FAULT CONFIG OUT");
    const std::string fault = argv[1];
    Registry registry;
    register_kernels(registry);
    const Kernel* right = nullptr;
    for (const Kernel* one : registry.kernels("cpu"))
      if (one->name == "openblas") right = one;
    Kernel faulty = *right;
    faulty.name = "faulty";
    faulty.preference = -1000;
    const bool last = world.rank() == world.size() - 1;
    faulty.make = [make = right->make, fault, last](const Leaf& leaf, const LayerOptions& options) {
      return std::make_unique<FaultyLayer>(make(leaf, options), fault, leaf.rows, last);
    };
    registry.add(faulty);
    RunOptions options;
    options.config_path = argv[2];
    options.config_text = read_text_file(argv[2]);
    options.out_dir = argv[3];
    exit_code = run(options, registry, world);
  } catch (const std::exception& e) {
    if (world.size() > 1) abort_job(world, e.what());
    std::fprintf(stderr, "%s\n", e.what());
    exit_code = kExitFailed;
  }
  launch.finalize();
  return exit_code;
}

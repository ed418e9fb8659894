// A collective that is ready to run: its buffers, its call, and what should come of it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"
#include "distributed/collectives/compressed.hpp"
#include "distributed/collectives/verify.hpp"

namespace lamina {

struct CollectiveTask {
  const Collective* collective = nullptr;
  CollectiveSizes sizes;
  DType dtype = DType::f32;
  bool in_place = false;
  bool graph = true;  // where the device captures graphs
  std::optional<Compression> compression;
  std::string communicator = "auto", device = "cpu";
  int threads = 1;
  int64_t most_bytes = 0;  // of any case that shares its buffers
};

// Calls with feedback whose outputs' mean is held against the exact one.
inline constexpr int kFeedbackCalls = 16;

class CollectiveCase : public PreparedCase {
 public:
  // Collective over `comm`. AgreedError, SkippedCase where the transport refuses the call.
  CollectiveCase(const CollectiveTask& task, WeightStore& store, Communicator& comm);
  void step(Part part) override;
  Captured capture(Part part) override;
  DeviceState device_state() override { return device_.state(); }
  CheckResult check() override;
  std::string failure(const CheckResult& check) const override;
  std::optional<Quality> quality() override;
  void describe(Record& record) override;
  void summarize(Record& record, const Series& series) override;
  Transport* transport() const override { return inner_; }

 private:
  std::byte* in() const;
  std::byte* out() const;
  void call();  // a step that has ended
  Verification run_and_verify();

  CollectiveTask task_;
  Communicator& comm_;
  Device& device_;
  Stream stream_;
  Transport* inner_ = nullptr;
  std::unique_ptr<CompressedTransport> compressed_;
  Transport* transport_ = nullptr;                  // the one of both that is called
  std::shared_ptr<Buffer> in_buffer_, out_buffer_;  // shared with the group's other cases
  Collective::InPlace in_place_;
  std::vector<std::byte> host_;  // while checking
  Verification verified_;        // over ranks
};

}  // namespace lamina

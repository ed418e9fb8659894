// A workload: what a case runs. Its keys are declared and read once, its cases prepared on all ranks, its
// step timed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/record.hpp"
#include "distributed/check.hpp"
#include "distributed/communicator.hpp"
#include "distributed/quality.hpp"
#include "distributed/transport.hpp"
#include "kernels/params.hpp"
#include "kernels/registry.hpp"

namespace lamina {

class WeightStore;
struct Series;

// Thrown on every rank by a case that cannot run here: its row is skipped, and what() is the reason.
class SkippedCase : public AgreedError {
 public:
  using AgreedError::AgreedError;
};

// The launch, as far as reading a config needs it.
struct LaunchInfo {
  int ranks = 1;        // of the launch
  int local_ranks = 1;  // on the fullest node
  int default_threads = 1;
  int cores = 1;                 // on this node, as the process may use them
  int64_t cache_bytes = 0;       // last-level caches of a node, together
  int64_t core_cache_bytes = 0;  // second-level cache of a core; 0: unknown
  int64_t gpu_free_bytes = 0;    // of the ranks' GPUs, the least; 0: not every rank has one
  uint64_t seed = 1;
  std::string default_cache = "cold";
};

// A case that is ready to run on every rank of its communicator.
class PreparedCase {
 public:
  virtual ~PreparedCase() = default;
  // The timed region; `cold` cases move on to the next copy of their weights with every call.
  virtual void step(Part part) = 0;
  // On a device that times its own work: this many steps of a part, to be replayed. Called after check().
  // Collective. No replay: the host's clock times step().
  struct Captured {
    std::unique_ptr<Replay> replay;
    int64_t steps = 1;
  };
  virtual Captured capture(Part /*part*/) { return {}; }
  // The device's clock and what slows it, at this moment.
  virtual DeviceState device_state() { return {}; }
  virtual CheckResult check() = 0;
  // Why a case that failed its check is invalid.
  virtual std::string failure(const CheckResult& check) const = 0;
  // Fills sizes, kernel, isa and compression. Collective.
  virtual void describe(Record& record) = 0;
  // Fills what the timed steps told besides their time. Collective.
  virtual void summarize(Record& /*record*/, const Series& /*series*/) {}
  // What a reader of the row should know.
  virtual std::vector<std::string> warnings() const { return {}; }

  // What follows is of forwards of layers.
  virtual std::optional<Quality> quality() { return std::nullopt; }
  virtual Cost cost() const { return {}; }            // this rank's, of one step
  virtual double network_bytes() const { return 0; }  // payload of one step's collectives
  virtual int collectives() const { return 0; }
  virtual Transport* transport() const { return nullptr; }  // that they run on
  // Whether its weights come from memory at every step: false for a hot case, and for one too small to
  // outgrow the caches with as many copies as are made at most.
  virtual bool cold() const { return false; }
};

// One that runs layers' forwards.
class ForwardCase : public PreparedCase {
 public:
  // Of factors that miss their method's promise, that; else of the outputs.
  CheckResult check() final;
  std::string failure(const CheckResult& check) const override;
  virtual CheckResult check_outputs() = 0;
  virtual Promise promise() const = 0;
  Cost cost() const override = 0;
  double network_bytes() const override = 0;
  int collectives() const override = 0;
  bool cold() const override = 0;
};

// What one point of the sweep asks for, known on every rank before anything is made.
class CaseSpec {
 public:
  virtual ~CaseSpec() = default;
  Record identity;            // the identity keys; `kernel` as asked
  std::string name;           // the record's `case`
  std::string group;          // cases of equal group are interleaved, and compared with its dense case
  std::string weights_group;  // cases of equal weights_group share original and canonical weights
  std::string packed_group;   // and of equal packed_group packed weights too: they differ in tokens only
  std::string pointer;        // of the experiment in the config
  bool forward = true;        // runs layers: has dense baselines, and limits of the machine
  bool dense = false;         // a baseline
  std::string skip_reason;    // not empty: cannot run in this launch
  int ranks = 1;
  int threads = 1;
  int64_t tokens = 1;
  int64_t max_tokens = 1;       // of the packed_group
  double dense_operations = 0;  // of the whole layer, as if dense
  int64_t shared_bytes = 0;     // memory a rank needs for weights that the weights_group shares
  int64_t canonical_bytes = 0;  // and for this scheme's canonical weights, kept for the weights_group
  int64_t own_bytes = 0;        // and for this case while its group is measured
  int64_t token_bytes = 0;      // what one more token of max_tokens adds to that
  int64_t passing_bytes = 0;    // and for a while, one case at a time: made, checked, or beside the ceilings
  int64_t stated_bytes = 0;     // what --dry-run says of the case, where that is not canonical + own
  double estimated_step_s = 0;  // rough, for --dry-run
  double estimated_compress_s = 0;
  double estimated_pack_s = 0;
  double estimated_quality_s = 0;
  // Collective over `comm` (ranks of it). AgreedError when the case cannot be made; any other exception is
  // fatal.
  virtual std::unique_ptr<PreparedCase> prepare(WeightStore& store, const Registry& registry,
                                                Communicator& comm) const = 0;
};

struct WorkloadType {
  std::string name;
  std::string help;
  std::vector<KeySpec> keys;
  // Reads and checks every key; null after a problem.
  std::function<std::unique_ptr<CaseSpec>(const Params& params, const LaunchInfo& launch,
                                          const Registry& registry)>
      read;
};

// One line a workload.
const std::vector<WorkloadType>& workloads();
const WorkloadType* find_workload(std::string_view name);

}  // namespace lamina

// A factorisation that is ready to run: its steps, and what they come to.
#pragma once

#include <memory>
#include <vector>

#include "bench/weight_store.hpp"
#include "bench/workload.hpp"
#include "distributed/svd.hpp"

namespace lamina {

// What is asked for.
struct SvdTask {
  LayerRef ref;
  Distribution distribution;  // how the matrix lies before
  RankRule rule;
  SvdOptions options;
  bool seek_optimum = true;  // by a factorisation of its own, where the method does not know the least error
};

class SvdCase : public PreparedCase {
 public:
  SvdCase(const SvdTask& task, WeightStore& store, Communicator& comm);
  // One factorisation.
  void step(Part part) override;
  // Factorises once, with its memory measured, and recomputes the error in float64: passed when that is
  // within the method's bound.
  CheckResult check() override;
  std::string failure(const CheckResult& check) const override;
  void describe(Record& record) override;
  void summarize(Record& record) override;

 private:
  double optimal_error(const SvdResult& result);

  SvdTask task_;
  WeightStore& store_;
  Communicator& comm_;
  std::shared_ptr<const SpreadMatrix> matrix_;
  std::vector<SvdPhases> phases_;  // of each step
  int64_t rank_ = 0, peak_bytes_ = 0;
  double error_ = 0, bound_ = 0, optimal_ = 0, orthogonality_ = 0;
};

}  // namespace lamina

// A factorisation that is ready to run: its steps, and what they come to.
#pragma once

#include <memory>
#include <string>
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
  SvdOptions options;                 // the case fills in its transport
  std::string communicator = "auto";  // between GPUs
  int64_t gpu_bytes = 0;              // of a rank's GPU, by the estimate
  bool seek_optimum = true;  // by a factorisation of its own, where the method does not know the least error
};

// The largest element of (QᵀQ − I)z over a few vectors z of ±1, zero where σ is: of a matrix whose columns
// are nearly orthonormal, about its largest deviation or more, for a product with it instead of its square.
// `part` [own rows × σ's] holds this rank's rows of Q. Collective.
double orthogonality(const Matrix<float>& part, const std::vector<double>& sigma, Communicator& comm);

// What orthogonality() may be of float32 factors: 30·2⁻²³ a row, as LAPACK's own tests allow (LAPACK Working
// Note 41).
double orthogonality_limit(Shape shape);

class SvdCase : public PreparedCase {
 public:
  SvdCase(const SvdTask& task, WeightStore& store, Communicator& comm);
  // One factorisation.
  void step(Part part) override;
  // Factorises once, with its memory measured, and recomputes the error in float64: passed when that is
  // within the method's bound, and the columns of both factors are orthonormal.
  CheckResult check() override;
  std::string failure(const CheckResult& check) const override;
  void describe(Record& record) override;
  void summarize(Record& record, const Series& series) override;
  std::vector<std::string> warnings() const override;

 private:
  double optimal_error(const SvdResult& result);

  SvdTask task_;
  WeightStore& store_;
  Communicator& comm_;
  std::shared_ptr<const SpreadMatrix> matrix_;
  std::vector<SvdPhases> phases_;  // of each step
  int64_t rank_ = 0, peak_bytes_ = 0;
  double error_ = 0, bound_ = 0, optimal_ = 0, orthogonality_ = 0;
  std::string solved_by_;
  std::vector<std::string> warnings_;  // of the factors
};

}  // namespace lamina

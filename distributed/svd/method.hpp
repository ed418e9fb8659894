// What a method of factorising implements, and what all of them share. factorize.cpp lists the methods.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "distributed/svd.hpp"
#include "distributed/timed_communicator.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// A as methods see it, the same on every rank but for `local`: finite, not zero, and a rule that asks for a
// rank within [1, min(m, n)] or for a share.
struct Input {
  Shape shape;
  Distribution distribution;
  const Matrix<float>& local;  // this rank's part
  double max_abs = 0;          // largest |element|
  double norm_squared = 0;     // ‖A‖², summed exactly
  int64_t rank = 0;            // asked for; 0: the least rank that leaves at most `rest`
  double rest = 0;             // share of ‖A‖² that may be left out
  // Whether every rank's processor multiplies by tiles (coarse.hpp, digits.hpp): ranks that went different
  // ways would meet in different collectives.
  bool tiles = false;

  int64_t small_side() const { return std::min(shape.out_features, shape.in_features); }
};

// What no method counts: blocks too small to go back to the system at once, the BLAS's own, the pages of code
// that a first call reads, and what MPI keeps for each peer. As measured on up to 32 ranks.
inline int64_t uncounted_bytes(int ranks) {
  return (int64_t{2} << 20) + (ranks - 1) * (int64_t{300} << 10);
}

// That redistribute() sends at a time.
inline constexpr int64_t kMovedBytes = int64_t{16} << 20;
// Beside both parts while A of such a layout is copied, `copy` bytes of it a rank.
int64_t moving_bytes(Layout from, int64_t copy);

// Adds what passes until its end to one of the phases, but for what the communicator takes.
class Phase {
 public:
  Phase(double& seconds, const TimedCommunicator& comm)
      : seconds_(seconds),
        comm_(comm),
        communicated_(comm.seconds()),
        begin_(std::chrono::steady_clock::now()) {}
  ~Phase() {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin_;
    seconds_ += passed.count() - (comm_.seconds() - communicated_);
  }
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

 private:
  double& seconds_;
  const TimedCommunicator& comm_;
  double communicated_;
  std::chrono::steady_clock::time_point begin_;
};

// The rank the input asks for; else, from the squared singular values, largest first, the least that meets
// the rule by bound(ρ, r), the relative error of r of them that leave the share ρ = 1 − Σσ²/‖A‖²; all of them
// where none does.
int64_t choose_rank(const std::vector<double>& squares, const Input& input,
                    const std::function<double(double rho, int64_t r)>& bound);

// lamina::factorize(), of a part that need not be owned.
SvdResult factorize(Shape shape, const Distribution& distribution, const Matrix<float>& local,
                    const RankRule& rule, const SvdOptions& options, Communicator& comm);

// A method. `run` fills everything of the result but norm and phases.communicate_s, and may throw AgreedError
// on all ranks.
struct Method {
  using Run = SvdResult (*)(const Input& input, const SvdOptions& options, TimedCommunicator& comm);
  SvdMethod named;
  Run run = nullptr;
  Run run_on_gpus = nullptr;  // where named.gpu_bytes says that it does
};
Method gram_method();
Method randomized_method();
Method lapack_method();
// Numbers that sgesdd asks for with all of the smaller side's vectors: what its documentation says, and room
// for its blocks. Not by its query, which answers in a float32 and counts in 32 bits.
int64_t sgesdd_work(Shape shape);
Method scalapack_method();
Method scalapack_f64_method();

// A's local part in a layout: where it lies so already, or in a copy. Collective.
class InLayout {
 public:
  InLayout(const Input& input, Layout layout, Communicator& comm, int threads);
  static bool copies(Layout from, Layout to, int ranks);
  const Matrix<float>& local() const { return *local_; }

 private:
  SpreadMatrix copy_;
  const Matrix<float>* local_;
};

// redistribute(), of a part that need not be owned.
SpreadMatrix redistribute(Shape shape, const Distribution& from, const Matrix<float>& local,
                          const Distribution& to, Communicator& comm, int threads);

// Error of gram's float32 factors of r columns, given the share ρ = 1 − ‖T‖²/‖A‖².
double gram_bound(double rho, Shape shape, int64_t r);

// What float32 factors lose against the float64 ones they are rounded from, relative to ‖A‖: at most 2^-24 of
// each element, so ‖dU·Σ·Vᵀ‖ + ‖U·Σ·dVᵀ‖ ≤ 2·2^-24·√Σσ² for orthonormal columns; the rest covers the product
// of both and columns orthonormal to no more than this precision.
inline constexpr double kFactorRounding = 1.001 * 0x1p-23;

// ‖A‖², the same bits on any number of ranks and threads; needs input.max_abs. Collective.
double exact_squares(const Input& input, Communicator& comm, int threads);

// ‖A − U·diag(σ)·Vᵀ‖² of one rank's blocks, all ranks added in order. `u` is this rank's part by rows, `v` by
// columns; sigma may be empty, for ones. A by rows or columns. Collective.
double residual_squared(const Input& input, const Matrix<float>& u, const std::vector<double>& sigma,
                        const Matrix<float>& v, Communicator& comm, int threads);

}  // namespace lamina::svd

// What the randomized method does to tall matrices, wherever they lie: in the host's memory or in GPUs'.
#pragma once

#include <memory>

#include "distributed/svd/method.hpp"
#include "distributed/svd/orthonormal.hpp"
#include "distributed/svd/symmetric.hpp"

namespace lamina::svd {

// A as L [longer side × smaller side], a basis Q of orthonormal columns along the smaller side, and
// candidates Z for more of them. All calls are collective; what they return is the same on every rank.
class Basis {
 public:
  virtual ~Basis() = default;
  virtual int64_t columns() const = 0;  // of Q
  // Whether products by start() and iterate() are coarse from now on, of numbers rounded to bfloat16: only
  // where that is faster and safe.
  virtual bool take_coarse(bool /*wanted*/) { return false; }
  // Z = LᵀΩ, of `count` columns of the test matrix that were not used before.
  virtual void start(int64_t count) = 0;
  // Z = scale·(LᵀL·Z − shift·Z), and the power of two that is its scale. `careful`: with L·Z made orthonormal
  // in between, and no scale worth the name.
  virtual double iterate(bool careful, double shift) = 0;
  // Z orthonormal, beside Q: see orthonormalize_beside().
  virtual Orthonormalized orthonormalize(int steps, bool want_least) = 0;
  // Z becomes columns of Q; ‖L·Z‖².
  virtual double project() = 0;
  // What ‖L·Q‖ and the root of any part of its square may be off by, more than float64 is.
  virtual double lost() const { return 0; }
  // Of (L·Q)ᵀ(L·Q): see lapack_eigen().
  virtual Eigenpairs decompose(const ChooseRank& choose) = 0;
  // This rank's rows of Q·W, along the smaller side, or of L·Q·W, along the longer one, in float32 with zero
  // columns up to r; the latter's columns made orthonormal before on request. Ends that one of the two.
  virtual Matrix<float> along_short(const Matrix<double>& w, int64_t r) = 0;
  virtual Matrix<float> along_long(const Matrix<double>& w, int64_t r, bool orthonormal) = 0;

  const SvdPhases& phases() const { return phases_; }

 protected:
  SvdPhases phases_;
};

std::unique_ptr<Basis> make_host_basis(const Input& input, const SvdOptions& options,
                                       TimedCommunicator& comm);

}  // namespace lamina::svd

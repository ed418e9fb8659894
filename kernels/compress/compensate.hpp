// Error compensation: weights are replaced (rounded, dropped) one input channel after the other, and what
// each replacement loses is carried by the channels that come after it, so that least of the outputs on
// calibration tokens is lost: GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2022) and SparseGPT (Frantar,
// Alistarh 2023), both after Optimal Brain Surgeon (Hassibi, Stork 1992).
//
// In the form without an inverse. With channels numbered from the last met to the first, XᵀX = L·Lᵀ and
// d = w − ŵ, the loss of a row is ‖d·L‖² = Σ_p (d_p·L_pp + Σ_{q>p} d_q·L_qp)². Each term is made small by
// replacing, in place of w_p, the weight
//
//   w'_p = w_p + Σ_{q>p} d_q·L_qp / L_pp
//
// by the nearest value to be had. It is what GPTQ does by the Cholesky factor of (XᵀX)⁻¹, which is L⁻ᵀ.
#pragma once

#include <vector>

#include "kernels/compress/calibrator.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// What weights are replaced by. Rows are met by several threads, each row by one.
class Replacement {
 public:
  virtual ~Replacement() = default;
  // Channels that are opened together; 0: none are.
  virtual int64_t group() const { return 0; }
  // Weights `w` of channels [channel, channel + group()) come next, as they are compensated by now; `cost` is
  // what the square of each one's error adds to the loss, L_pp². Only where channels are met in their order.
  virtual void open(int64_t /*row*/, int64_t /*channel*/, float* /*w*/, const double* /*cost*/) {}
  // The value that `w` becomes.
  virtual double replace(int64_t row, int64_t channel, double w) = 0;
};

// Meets the slab's channels in the order order[0], order[1], …; rows of 128 at a time, in products of the
// BLAS. Collective, as Calibrator::root(). A group must divide GramRoot::kBlock and the columns.
void compensate(const RowSlab& slab, const std::vector<int64_t>& order, int64_t tokens, double damping,
                Calibrator& calibrator, Replacement& replacement);

// 0, 1, …, count − 1.
std::vector<int64_t> natural_order(int64_t count);

// Rows of W that a rank compresses at the most: they are dealt out in blocks.
int64_t slab_rows_at_most(int64_t out_features, int64_t ranks);
// Bytes of calibration tokens that a rank holds at once.
int64_t chunk_bytes(int64_t in_features, int64_t ranks);
// Bytes that compensate() takes on a rank, its share of L included.
int64_t compensate_bytes(Shape shape, int64_t ranks);

}  // namespace lamina

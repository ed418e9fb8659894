// What compression may know of a layer's inputs, from calibration tokens X [tokens × K] that are none of
// those which quality is measured on. The interface through which a scheme reaches them, and other ranks'
// rows, without knowing either.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/matrix.hpp"

namespace lamina {

// Of each input channel, over the tokens, [K].
struct ChannelStatistics {
  std::vector<double> mean_square, mean_magnitude, largest;  // the last of magnitudes
};

// A square root of the damped mean Gram of the tokens: L lower triangular [K × K] in float64 with
//   L·Lᵀ = XᵀX/tokens + damping · mean(diagonal) · I,
// channels in the order that was asked for. Each rank has a share of it.
class GramRoot {
 public:
  static constexpr int64_t kBlock = 128;
  virtual ~GramRoot() = default;
  // Rows [block·kBlock, …) of L, kBlock of them or what is left, their columns up to the diagonal's end.
  // Valid until the next call. Collective.
  virtual const Matrix<double>& rows(int64_t block) = 0;
};

// Every call is collective over the ranks that share the matrix, begins by agreeing that none has failed, and
// gives bitwise the same on any number of ranks and threads. AgreedError where a token cannot be read or is
// not finite.
class Calibrator {
 public:
  virtual ~Calibrator() = default;
  virtual ChannelStatistics channels(int64_t tokens) = 0;
  // Of channels order[0], order[1], …, a permutation. `damping` is positive: fewer tokens than channels and
  // channels of zeros are warned of, and give a root all the same; of tokens that are all 0 it is the
  // identity.
  virtual std::unique_ptr<GramRoot> root(const std::vector<int64_t>& order, int64_t tokens,
                                         double damping) = 0;
  // Of the layer's loss, as far as output cotangents δ [tokens × N] tell: Σ_t (δ_ti·x_tj)²/tokens for rows i
  // in `rows`, this rank's, [rows × K]. AgreedError also where a cotangent is not finite.
  virtual Matrix<double> slopes(Range rows, int64_t tokens) = 0;
  // The sum over all ranks of each of `counts`, as many on every rank.
  virtual std::vector<int64_t> total(std::vector<int64_t> counts) = 0;
  // The sum over all ranks' rows of `parts`, which has a row for each kBlock of the slab's rows.
  virtual std::vector<double> sum(const Matrix<double>& parts) = 0;
  // The largest over all ranks of each of `values`, as many on every rank.
  virtual std::vector<double> largest(std::vector<double> values) = 0;
  // What was found wrong with the tokens, the same on all ranks.
  const std::vector<std::string>& warnings() const { return warnings_; }

 protected:
  std::vector<std::string> warnings_;
};

}  // namespace lamina

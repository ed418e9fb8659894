// A times tall matrices, A's longer side spread over ranks and the other side whole on each.
#pragma once

#include <vector>

#include "distributed/svd/method.hpp"
#include "kernels/matrix.hpp"

namespace lamina::svd {

// A as L [longer side × shorter side]: itself, or transposed where it has more columns than rows. Of equal
// sides, rows count as the longer, in every layout. Tall matrices lie along a side of L, each rank holding
// partition(side, ranks, kRowBlock)[rank] of their rows. Products are made in blocks of kRowBlock of the
// longer side by BLAS calls of fixed shapes on one thread, and added exactly where ranks share a sum: bitwise
// the same for any number of ranks and threads. All calls are collective.
//
// Bytes on the wire per rank, l columns: forward and the others gather 4·s·l and 8·s·l, s the shorter
// side; back sends and receives 8·s·l·(P−1)/P each.
class Products {
 public:
  // Moves A once to this layout, where it lies otherwise.
  static Layout layout(Shape shape) {
    return shape.out_features >= shape.in_features ? Layout::rows : Layout::columns;
  }
  Products(const Input& input, Communicator& comm, int threads);

  bool long_is_rows() const { return long_is_rows_; }
  Range own_long() const { return long_shares_[static_cast<size_t>(comm_.rank())]; }
  Range own_short() const { return short_shares_[static_cast<size_t>(comm_.rank())]; }
  int64_t short_side() const { return short_shares_.back().end; }

  // Whether coarse products, of numbers rounded to bfloat16, are the faster ones and safe: subnormal factors
  // count as zeros in them, so A must not be near the limits of the range.
  bool can_be_coarse() const;
  // L·Q in float32 [own long × l], from own rows of Q, along the shorter side. Times a power of two, which
  // keeps elements of any magnitude within float32's range, and by which `scale` is multiplied.
  Matrix<float> forward(const Matrix<double>& q, double& scale, bool coarse = false);
  // LᵀY [own short × l] in float32 products of kRowBlock terms, added in float64. Both times such a power.
  Matrix<double> back(Matrix<float>& y, double& scale, bool coarse = false);
  // L·Q in float64.
  Matrix<double> exact_forward(const Matrix<double>& q);
  // The same for orthonormal columns by digits (digits.hpp), where these are fast: ‖L·Q‖ is off by `lost` at
  // most.
  Matrix<double> digit_forward(const Matrix<double>& q, double& lost);

  // Of memory that is kept for the next back().
  void let_go();

 private:
  template <class T>
  Matrix<T> gather(const Matrix<double>& q, double scale);

  bool long_is_rows_;
  InLayout a_;
  Communicator& comm_;
  int threads_;
  std::vector<Range> long_shares_, short_shares_;
  double max_abs_, norm_;
  bool tiles_;
  // back()'s messages: every call's are as long, and new memory would have to be cleared first.
  Messages sent_, received_;
};

}  // namespace lamina::svd

// A matrix's shards in the memory of the ranks' GPUs, and what the methods multiply them by.
#pragma once

#include <vector>

#include "distributed/svd/method.hpp"
#include "distributed/svd/symmetric.hpp"
#include "kernels/device.hpp"

namespace lamina::svd {

// A as L [longer side × smaller side]: itself, or transposed where it has more columns than rows (of equal
// sides, rows count as the longer). Each rank has partition(longer, ranks, kRowBlock)[rank] of its rows in
// its GPU's memory, in float32, with zeros below them up to a multiple of kChunk. Tall matrices along the
// longer side lie alike; what lies along the smaller one is whole, and the same, on every rank.
//
// Products are made in calls of fixed shapes at fixed places of the whole matrix and added exactly where
// ranks share a sum (exact_sum.hpp), as on the host: on GPUs of one model they are the same for any number of
// them. Pointers are to the GPU's memory. All calls but the small ones marked so are collective.
class GpuSlab {
 public:
  static constexpr int64_t kChunk = 2048;  // rows of a product

  GpuSlab(const Input& input, const SvdOptions& options, TimedCommunicator& comm);

  Device& device() { return *device_; }
  TimedCommunicator& comm() { return comm_; }
  bool long_is_rows() const { return long_is_rows_; }
  int64_t small() const { return small_; }
  int64_t longer() const { return longer_; }
  Range own_long() const { return own_long_; }
  Range own_short() const { return own_short_; }
  int64_t rows() const { return rows_; }  // of this rank's memory: own_long(), and zeros

  // LᵀL's upper triangle [small × small] in float64, on every rank.
  Buffer gram();
  // The same of a tall float64 matrix [rows() × cols].
  Buffer gram(const double* tall, int64_t cols);
  // Some of the eigenvalues' vectors, those of the first r: [r × size] in `vectors`, largest value first, on
  // every rank. Takes the matrix, of which the upper triangle counts.
  struct Eigen {
    std::vector<double> values;  // all
    Buffer vectors;
    int64_t count = 0;
  };
  Eigen eigen(Buffer matrix, int64_t size, const ChooseRank& choose);

  // L·Q [rows() × cols], of Q [small × cols], or its transpose [cols × small], in float64. Not collective.
  Buffer exact_forward(const double* q, bool transposed, int64_t cols);
  // L·Q in float32 times a power of two, which multiplies `scale`, as Products::forward(). Not collective.
  Buffer forward(const double* q, int64_t cols, double& scale);
  // LᵀY [small × cols] in float32 products of kRowBlock terms, added in float64, as Products::back().
  Buffer back(float* y, int64_t cols, double& scale);

  // Σ of squares of a tall matrix, this rank's rows and all others', always in the same order.
  double squares(const double* tall, int64_t cols);

 private:
  void move_in(const Matrix<float>& part, const Distribution& distribution);
  // Powers of two at or above the columns' norms, 0 for zeros: as small_side_norms().
  template <class T>
  std::vector<double> norms(const T* tall, int64_t cols);
  template <class T>
  Buffer gram_of(const T* tall, int64_t cols);
  // All ranks' numbers added, in place.
  void add_up(Buffer& numbers);
  // Puts a transport's call on the stream and waits for it, as time spent communicating.
  template <class Call>
  void communicate(int64_t bytes, Call&& call);

  Shape shape_;
  bool long_is_rows_;
  int64_t small_, longer_;
  Range own_long_, own_short_;
  int64_t rows_;
  double max_abs_;
  TimedCommunicator& comm_;
  Transport* transport_;
  Device* device_ = nullptr;
  Stream stream_;
  Buffer slab_;
};

// Bytes of a rank's GPU that a slab takes, while it is moved in and after.
int64_t gpu_slab_bytes(Shape shape, int ranks);
// And gram() of a tall matrix of so many columns, eigen() included.
int64_t gpu_gram_bytes(int64_t cols);

}  // namespace lamina::svd

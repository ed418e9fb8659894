// Canonical compressed weights: what compression makes once, on the host, for every device and kernel.
//
// A Leaf is one matrix. A Chain is U after V, so that W = U·V; a Sum is W = Q + U·V. Kernels pack leaves into
// layouts of their own, the float64 reference reads leaves directly, and a shard is a slice of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/buffer.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// What the kernel does to activations before it multiplies.
enum class ActivationRule {
  f32,             // nothing
  int8_per_token,  // q = clamp(rint(x·127/amax(token)), ±127), dynamic
  bf16,            // each becomes the nearest bfloat16: activations.hpp
  fp8_per_token,   // e4m3 of x·448/amax(token), dynamic
};
// "f32", "int8", "bf16", "fp8": as keys and records say it.
const char* name_of(ActivationRule rule);

// How zeros are laid out, for kernels that exploit it.
enum class PatternKind { dense, unstructured, n_of_m, block };

struct Pattern {
  PatternKind kind = PatternKind::dense;
  int64_t n = 0, m = 0;                    // n_of_m: n kept of every m along K
  int64_t block_rows = 0, block_cols = 0;  // block
  bool operator==(const Pattern&) const = default;
};

// Rows and columns of one piece of the pattern: where it may be cut.
struct CutUnits {
  int64_t rows = 1;
  int64_t cols = 1;
};
CutUnits pattern_units(const Pattern& pattern);

// Memory whose new elements are as it comes, for large arrays that are filled at once: threads that fill them
// are the first to touch it, each its part, and none of it is written twice.
template <class T>
struct Unfilled : Paged<T> {
  template <class U>
  struct rebind {
    using other = Unfilled<U>;
  };
  template <class U, class... Arguments>
  void construct(U* at, Arguments&&... arguments) {
    if constexpr (sizeof...(Arguments) == 0)
      ::new (static_cast<void*>(at)) U;
    else
      ::new (static_cast<void*>(at)) U(std::forward<Arguments>(arguments)...);
  }
};
using Codes = std::vector<int8_t, Unfilled<int8_t>>;

// One matrix [rows × cols] of weights, cut from a whole [whole_rows × whole_cols] at (row_begin, col_begin).
// Float weights fill `values`; quantized ones fill `codes` and `scales`:
//   w[i][j] = scales[i][j / group] · (codes[i][j] − zero_points[i][j / group]) / input_scales[j]
// with zero_points absent meaning 0 and input_scales absent meaning 1; fp8 codes are the numbers that their
// bits say (small_floats.hpp). Pruned weights have `mask`; what it drops is stored as 0 in `values` or
// `codes`.
//
// What a leaf is, wherever it lies and whatever its numbers:
struct LeafKind {
  int bits = 32;      // 32: values; 16: values that are bfloat16; 8 or 4: codes, in ±127 or −8..7
  bool fp16 = false;  // the 16-bit values are float16 instead
  bool fp8 = false;   // the 8-bit codes are e4m3
  int64_t group = 0;  // columns that share a scale; divides cols (cols itself: per output channel)
  Pattern pattern;
  ActivationRule activation = ActivationRule::f32;
  bool per_channel = false;  // group spans whole rows: slicing columns keeps the scale
  bool operator==(const LeafKind&) const = default;
};

struct Leaf : LeafKind {
  int64_t rows = 0, cols = 0;
  int64_t whole_rows = 0, whole_cols = 0;
  int64_t row_begin = 0, col_begin = 0;

  PagedVector<float> values;        // [rows × cols], or empty
  Codes codes;                      // [rows × cols], or empty
  std::vector<float> scales;        // [rows × cols/group]
  std::vector<int8_t> zero_points;  // optional, as scales
  std::vector<float> input_scales;  // optional, [cols]; the kernel divides activations by them first
  std::vector<uint8_t> mask;        // optional, [rows × cols], 1 is kept

  const LeafKind& kind() const { return *this; }
  LeafKind& kind() { return *this; }
  bool quantized() const { return !codes.empty() || bits < 16; }
  int64_t groups() const { return group > 0 ? cols / group : 0; }
};

struct Canonical {
  // One leaf: the matrix itself. Two: {U [N×r], V [r×K]}, a Chain, x goes through V first. Three: {Q [N×K],
  // U, V}, a Sum of a leaf and a Chain.
  std::vector<Leaf> leaves;
  // Relative Frobenius error of U·V, of W, or of W − Q for a Sum, where compression found it by itself; else
  // NaN.
  double error = std::numeric_limits<double>::quiet_NaN();
  bool is_chain() const { return leaves.size() == 2; }
  bool is_sum() const { return leaves.size() == 3; }
  bool has_factors() const { return leaves.size() > 1; }
};

// Throws std::invalid_argument, naming the field, unless every array has the size that the leaf's description
// asks for.
void check_leaf(const Leaf& leaf);

// Copies rows and columns out of a leaf, in the leaf's own (local) coordinates. `cols` must lie on multiples
// of the group (unless per_channel), of m and of block_cols; block rows on multiples of block_rows of the
// whole. Throws std::invalid_argument otherwise.
Leaf slice(const Leaf& leaf, Range rows, Range cols);
// Joins leaves that hold the same columns of consecutive or arbitrary rows, top to bottom. The result's
// row_begin is the first one's.
Leaf stack_rows(const std::vector<Leaf>& parts);
// A flat byte image and back, for moving leaves between ranks.
std::vector<std::byte> serialize(const Leaf& leaf);
Leaf deserialize(const std::byte* bytes, int64_t size);

// The weights of one row as float64, cols() of them. `rounds`: of quantized weights codes times scales, which
// are each the nearest bfloat16 of the nearest float32 before input scales divide them.
void dequantize_row(const Leaf& leaf, int64_t row, double* out, bool rounds = false);

}  // namespace lamina

// A scheme: how a layer's weights are stored. One file per scheme, which declares, checks and reads its keys,
// and turns rows of the original weights into canonical compressed weights. Schemes know no ranks and no
// devices.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/compress/calibrator.hpp"
#include "kernels/compress/canonical.hpp"
#include "kernels/params.hpp"

namespace lamina {

struct Shape {
  int64_t out_features = 0;  // N
  int64_t in_features = 0;   // K
  bool operator==(const Shape&) const = default;
};

// Whole rows [row_begin, row_begin + rows.rows) of W.
struct RowSlab {
  const Matrix<float>& rows;
  int64_t row_begin = 0;
  Shape shape;
  // [rows × cols] or null: weights that are 0 here, and stay so whatever a scheme makes of the others.
  const std::vector<uint8_t>* mask = nullptr;
  bool remainder = false;  // what another scheme has left of W, not W itself: nobody else asks for it
};

// How much of the spectrum to keep: exactly one is set.
struct RankRule {
  int64_t rank = 0;
  double ratio = 0;   // of the dense parameters: r·(N+K) ≤ ratio·N·K
  double error = 0;   // relative Frobenius error to stay under
  double energy = 0;  // share of ‖W‖² to keep at least, below 1: as an error, √(1 − energy)
  bool operator==(const RankRule&) const = default;
};

// What a method of factorising promises, and what came of it: relative Frobenius errors of the float32
// factors of the matrix that it was given, whitened or not. No bound: nothing is promised.
struct Promise {
  double error = std::numeric_limits<double>::quiet_NaN();  // recomputed in float64, element by element
  double bound = std::numeric_limits<double>::quiet_NaN();
  bool broken() const { return !std::isnan(bound) && !(error <= bound); }
  // Keeps the one nearer to its bound, or further past it.
  void merge(const Promise& other) {
    const auto share = [](const Promise& of) { return of.error > 0 ? of.error / of.bound : 0; };
    if (std::isnan(bound) || (other.broken() && !broken()) ||
        (other.broken() == broken() && share(other) > share(*this)))
      *this = other;
  }
};

// W ≈ U·V. U has the slab's rows; V is whole and the same on every rank. The singular values are split evenly
// (√σ in each), so that both factors quantize well.
struct Factors {
  Matrix<float> u;  // [slab rows × r]
  Matrix<float> v;  // [r × K]
  std::vector<double> singular_values;
  double error = 0;  // relative Frobenius, ‖W − UV‖/‖W‖
  Promise promise;
  double verify_s = 0;                // what recomputing errors took, which is no part of compressing
  std::vector<std::string> warnings;  // of the calibration tokens, the method and the rank
};

// What the loss of a factorisation is counted in: weights, outputs on calibration tokens as if input channels
// were independent, or those outputs themselves.
enum class Whiten { none, diagonal, cholesky };

struct FactorRequest {
  RankRule rule;                // an error or energy is of the whitened matrix
  std::string method = "gram";  // for the best factors of a rank; "randomized" for some near them, sooner
  std::string device = "cpu";   // "cuda": on the ranks' GPUs
  Whiten whiten = Whiten::none;
  int64_t calibration_tokens = 0;  // where whitened
  double damping = 0;              // share of the mean square that is added to each channel's
  bool operator==(const FactorRequest&) const = default;
};

// Factorises a matrix of which each rank holds a slab of rows. Collective over the ranks that share the
// matrix; the interface through which a scheme reaches them without knowing them.
class Factorizer {
 public:
  virtual ~Factorizer() = default;
  virtual Factors factorize(const RowSlab& slab, const FactorRequest& request, uint64_t seed) = 0;
};

struct CompressContext {
  Factorizer& factorizer;
  uint64_t seed = 1;
  Calibrator* calibrator = nullptr;
  // Throws std::logic_error where there is none.
  Calibrator& calibration() const {
    if (calibrator == nullptr) throw std::logic_error("expected calibration tokens, found none");
    return *calibrator;
  }
};

class Scheme {
 public:
  virtual ~Scheme() = default;
  // Short, its type first: `int4-g128`, `pruned-2:4`, `lowrank-r256-int8`.
  virtual std::string name() const = 0;
  // Its keys as the record shows them, in order, without the `scheme_` prefix: {"group", 128}.
  virtual std::vector<std::pair<std::string, Value>> describe() const = 0;
  // Where a shard may cut: at multiples of these.
  virtual CutUnits units() const = 0;
  // Bytes a packed layer of this shape takes, to within a few percent (for the memory estimate).
  virtual int64_t estimated_weight_bytes(Shape shape) const = 0;
  // Bytes of canonical weights of this shape.
  virtual int64_t estimated_canonical_bytes(Shape shape) const = 0;
  // Of each leaf, in canonical order: one; U's and V's of a chain; Q's, U's and V's of a sum.
  struct LeafBytes {
    Shape shape;
    int64_t kept = 0;  // weights that are stored
    int64_t canonical = 0;
    int64_t packed = 0;  // by kernels that do not say otherwise
    // What its copies keep together beside their weights, for each token and for each thread.
    int64_t scratch_per_token = 0, scratch_per_thread = 0;
  };
  virtual std::vector<LeafBytes> estimated_leaves(Shape shape) const {
    const auto [n, k] = shape;
    // float32 activations in tiles; a block of unpacked weights, or sums, and a row of activations or weights
    return {{shape, n * k, estimated_canonical_bytes(shape), estimated_weight_bytes(shape), 4 * k,
             kBlockBytes + 8 * k}};
  }
  static constexpr int64_t kBlockBytes = 256 << 10;
  // Bytes that compress() takes for a while on each of `ranks`, beyond weights and canonical weights.
  virtual int64_t estimated_compress_bytes(Shape, int64_t /*ranks*/) const { return 0; }
  // And beside what factorising takes, for as long.
  virtual int64_t estimated_factor_bytes(Shape, int64_t /*ranks*/) const { return 0; }
  // Tokens of the layer's inputs that it looks at; 0: none.
  virtual int64_t calibration_tokens() const { return 0; }
  // Whether it takes the root of their Gram.
  virtual bool takes_gram() const { return false; }
  // Of factors U and V: how many columns U has, at most. 0 where W is not factorised.
  virtual int64_t largest_rank() const { return 0; }
  // The factorizer's, where W is factorised.
  virtual FactorRequest factor_request() const { return {.rule = {}, .method = ""}; }
  // Multiply-adds per token, as executed.
  virtual double estimated_macs(Shape shape) const = 0;
  virtual Canonical compress(const RowSlab& slab, CompressContext& context) const = 0;
};

class Registry;

// What a scheme's file registers.
struct SchemeType {
  std::string type;
  std::string help;
  std::vector<KeySpec> keys;
  // Reads and checks the keys against the shape; records problems in `params` and may return null after one.
  std::function<std::unique_ptr<Scheme>(const Params& params, Shape shape, const Registry& registry)> make;
};

}  // namespace lamina

// Where original weights and activations come from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/compress/scheme.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

// One layer's original weights W [N×K], read a slab of rows at a time; safe to call from every rank at once.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual Shape shape() const = 0;
  // Rows [rows.begin, rows.end) into out (rows.size() × K floats), with `threads` OpenMP threads. Throws
  // std::runtime_error naming the file and tensor when the data cannot be read.
  virtual void read_rows(Range rows, float* out, int threads) const = 0;
  // "synthetic" or the file's name, for the record.
  virtual std::string describe() const = 0;
};

// Statistics of synthetic weights and activations. docs/synthetic.md states the generator; the defaults mimic
// an LLM's projections.
struct SyntheticOptions {
  double spectrum_decay = 0.5;   // weights: σ_r of the structured part falls as r^−decay
  double correlation = 0.5;      // activations: share of variance in a few common factors, 0..1
  double outlier_share = 0.002;  // activations: share of channels that are outliers
  double outlier_gain = 20.0;    // and how much larger they are
};

// Element (i, j) depends on (seed, name, shape, i, j) alone: bitwise the same for any slab, rank count and
// thread count.
std::unique_ptr<WeightSource> make_synthetic_weights(Shape shape, uint64_t seed, const std::string& name,
                                                     const SyntheticOptions& options);

// Stacks the named tensors' rows, top to bottom. Opens and validates the header now; a file that breaks a
// rule throws std::runtime_error saying which. `path` is a .safetensors file, a *.safetensors.index.json, or
// a folder that holds either.
std::unique_ptr<WeightSource> open_safetensors(const std::string& path,
                                               const std::vector<std::string>& tensors);

enum class ActivationPurpose { calibration, evaluation };

// Tokens [begin, begin + out.rows) of the layer's synthetic input stream, K = out.cols. The two purposes
// share channel statistics (the same outlier channels and factors) and no token.
void fill_activations(Matrix<float>& out, int64_t first_token, ActivationPurpose purpose, uint64_t seed,
                      const std::string& name, const SyntheticOptions& options);

// Cotangents of a layer's outputs in `features`, [tokens × features.size()], of calibration tokens from
// first_token on: δ_ti = (1/2 + m_i²)·n_ti with n_ti and m_i standard normal, so that few outputs matter
// much. Independent of the layer's inputs.
void fill_cotangents(Matrix<float>& out, int64_t first_token, Range features, uint64_t seed,
                     const std::string& name);

}  // namespace lamina

// Is the result right? Against float64, over all ranks.
#pragma once

#include "distributed/sharded_layer.hpp"

namespace lamina {

// The worst element's |y − reference| and its tolerance; passed when every element is within its own.
struct CheckResult {
  bool passed = true;
  double error = 0;      // of the element with the largest error / tolerance
  double tolerance = 0;  // that element's
  std::string where;  // "copy 0, rank 1, stage 1, token 3, feature 17": the worst element, for the reason of
                      // an invalid row
  void merge(const CheckResult& other);  // keeps the worse
};

// Runs the layer on x [tokens × K] (the whole input, the same on every rank), each copy once with poisoned
// (NaN) outputs, and holds every stage's output against the float64 product of the compressed weights by
// global position and the same quantized activations. Up to 8 tokens are compared element by element (all of
// them when tokens ≤ 8; first, last and seeded others beyond), and every further token through one random ±1
// combination of all tokens, whose tolerance is the sum of the elements'. Collective; the result is the same
// on every rank.
CheckResult check_layer(ShardedLayer& layer, const Matrix<float>& x, Stream& stream, uint64_t seed);

// What this rank reads of tokens of x [… × K]: [layer.in_rows(tokens) × layer.local_in()], rows beyond its
// own tokens zero.
Matrix<float> local_input(const ShardedLayer& layer, const Matrix<float>& x, Range tokens);

// Gathers what each rank computed, y_local [layer.out_rows(tokens) × layer.local_out()], into the whole
// [tokens × N], on every rank.
Matrix<float> gather_output(ShardedLayer& layer, const float* y_local, int64_t tokens);

}  // namespace lamina

// What did compression lose? Against the original weights in float64, over all ranks.
#pragma once

#include "distributed/communicator.hpp"
#include "distributed/compress.hpp"
#include "kernels/matrix.hpp"

namespace lamina {

struct Quality {
  double nmse = 0;     // Σ(y − y₀)² / Σy₀²
  double cosine = 0;   // over all elements
  double max_abs = 0;  // largest |y − y₀|
};
// From sums over all elements: Σ(y − y₀)², Σy², Σy₀², Σy·y₀. Two zero vectors agree; a zero one against
// another does not point anywhere.
Quality quality_of(double error, double power, double power0, double product, double max_abs);
// y: the kernel's output; y0: original weights and activations in float64. Same shape.
Quality compare_quality(const Matrix<float>& y, const Matrix<double>& y0);

// X·W₀ᵀ in float64 from the original weights, each rank computing its slab's features, gathered: [tokens × N]
// on every rank.
Matrix<double> original_product(const OriginalWeights& weights, const Matrix<float>& x, Communicator& comm,
                                int threads);

}  // namespace lamina

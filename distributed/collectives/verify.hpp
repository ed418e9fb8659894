// Data whose every number each rank knows of every other, so that a collective's result is held against the
// exact one without a second communication.
#pragma once

#include "distributed/collectives/codec.hpp"
#include "distributed/collectives/collective.hpp"

namespace lamina {

// Element `index` of `rank`'s input as `dtype` holds it: pseudo-random in ±1, of i8 in ±(127 / ranks), so
// that sums fit. f32, f16, bf16 and i8.
double collective_value(int rank, int ranks, int64_t index, DType dtype);
// The first `count` of them.
void fill_collective(int rank, int ranks, int64_t count, DType dtype, std::byte* out, int threads);

// sums[i] += weight · data[i].
void add_collective(const std::byte* data, int64_t count, DType dtype, double weight, double* sums);

// How a compressed all_reduce encodes.
struct Compression {
  Payload payload = Payload::int8;
  int64_t block = 128;
  bool error_feedback = false;
};

struct Verification {
  int64_t wrong = 0;     // elements beyond their tolerance
  int64_t worst = -1;    // the element with the largest error over tolerance; -1: there is none
  double error = 0;      // its |out − exact|
  double tolerance = 0;  // and what that may be
  double error_squared = 0, norm_squared = 0, out_squared = 0, product = 0, max_abs = 0;  // over all elements

  double ratio() const { return worst < 0 ? -1 : error == 0 ? 0 : error / (tolerance + 1e-300); }
};

// Holds a rank's output against the exact one, sums in float64. What is only moved must be equal bit for bit.
// A sum may be off by ranks·u·Σ|x|, u being half a unit of the data type's last place (a rounding at every
// addition); one of int8 not at all; a compressed one by half a step of each code that went into it.
Verification verify_collective(const Collective& collective, const CollectiveSizes& sizes, int rank,
                               int ranks, DType dtype, const std::byte* out, const Compression* compression,
                               int threads);

}  // namespace lamina

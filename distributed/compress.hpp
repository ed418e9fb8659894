// Compression over ranks: each compresses whole rows, given what needs all of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "distributed/calibration.hpp"
#include "distributed/communicator.hpp"
#include "kernels/compress/scheme.hpp"
#include "kernels/weights/source.hpp"

namespace lamina {

class Transport;

// Rows are handed to ranks in whole blocks of this many, so that what is computed block by block (and summed
// exactly) does not depend on the rank count.
inline constexpr int64_t kRowBlock = 128;

// The rows of W that this rank reads and compresses: partition(N, size, kRowBlock)[rank].
Range slab_rows(int64_t out_features, const Communicator& comm);

// The original weights of a layer, each rank holding its slab.
struct OriginalWeights {
  Shape shape;
  Range rows;
  Matrix<float> slab;  // [rows.size() × K]
  std::string source;
};
// Collective. Throws AgreedError (a std::runtime_error) on every rank when one cannot read its slab or finds
// a weight that is not finite.
OriginalWeights load_weights(const WeightSource& source, Communicator& comm, int threads);
// 16 hexadecimal digits that tell these weights from others, by their float32 bits and their shape; the same
// for any number of ranks and threads. Collective.
std::string weights_digest(const OriginalWeights& weights, Communicator& comm, int threads);

// One layer's canonical weights as compression leaves them: leaf 0 and U hold this rank's slab of rows; V is
// whole on every rank.
struct CompressedWeights {
  Shape shape;
  Range rows;  // this rank's rows of leaf 0
  Canonical canonical;
  double seconds = 0;        // slowest rank's
  int64_t peak_bytes = 0;    // largest rank's, canonical weights included
  int64_t comm_bytes = 0;    // of collectives, the largest rank's share; 0 on one rank
  double norm_squared = 0;   // ‖W‖² (Frobenius) of the whole matrix
  double error_squared = 0;  // ‖W − Ŵ‖²; NaN where factors are not dense: U·V is not multiplied out
  Promise promise;           // of the factors before a scheme stores them
  std::vector<std::string> warnings;  // of the calibration tokens and of factors
};
// What to say of one that is broken.
std::string failure_of(const Promise& promise);

// Between the ranks' GPUs; made at the first call, which is collective. Throws AgreedError.
using GpuTransport = std::function<Transport&()>;

// Factors of one matrix that several schemes may ask for, and what they took: each scheme reports the whole
// price.
struct FactorMemory {
  struct Known {
    FactorRequest request;
    uint64_t seed = 0;
    Factors factors;
    double seconds = 0;
    int64_t peak_bytes = 0, comm_bytes = 0;
  };
  std::vector<Known> known;
  GpuTransport gpus;  // for requests that are factorised there
};

// Collective, on `threads` threads a rank; a failure on one rank is the same AgreedError on all. `memory`
// belongs to these weights.
CompressedWeights compress(const Scheme& scheme, const OriginalWeights& weights, Communicator& comm,
                           uint64_t seed, int threads = 1, FactorMemory* memory = nullptr,
                           const Calibration& calibration = {}, const Cotangents& cotangents = {});

// Fills norm_squared and error_squared of what was compressed from `slab`. Collective.
void measure_error(CompressedWeights& result, const Matrix<float>& slab, Communicator& comm, int threads);

// A leaf spread by rows over `comm` (this rank holds `leaf`), cut anew: every rank r gets the rows in its own
// `wanted_rows` (ranges of the whole matrix, stacked in the order given) and columns `wanted_cols`. Each rank
// passes its own wish. Collective; a wish that cannot be met (a cut off the leaf's units, rows that nobody
// holds) is an AgreedError on all.
Leaf redistribute(const Leaf& leaf, const std::vector<Range>& wanted_rows, Range wanted_cols,
                  Communicator& comm);

}  // namespace lamina

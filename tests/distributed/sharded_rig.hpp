// A layer over the ranks that its shard uses, ready to be checked.
#pragma once

#include <memory>

#include "distributed/check.hpp"
#include "distributed/sharded_layer.hpp"
#include "tests/distributed/support.hpp"

namespace lamina::test {

inline const SchemeCase kDense{"dense", {}};

// Shard::none is one rank's. Two copies, and inputs with a channel 20 times as large as the others.
struct ShardedRig {
  ShardedRig(Shape shape, const SchemeCase& from, ShardedOptions options) {
    comm = options.shard == Shard::none ? make_self_communicator() : world().subset(world().size());
    original = load_weights(MatrixSource(random_matrix(shape.out_features, shape.in_features, 3)), *comm, 1);
    scheme = make_scheme(from, shape, registry());
    weights = compress(*scheme, original, *comm, 5);
    layer = std::make_unique<ShardedLayer>(weights, options, registry(), *comm);
    layer->replicate(2);
    x = random_matrix(options.max_tokens, shape.in_features, 9);
    for (int64_t t = 0; t < x.rows; ++t) x(t, shape.in_features / 2) *= 20;
  }
  CheckResult check() { return check_layer(*layer, x, stream, 17); }

  std::unique_ptr<Communicator> comm;
  OriginalWeights original;
  std::unique_ptr<Scheme> scheme;
  CompressedWeights weights;
  std::unique_ptr<ShardedLayer> layer;
  Matrix<float> x;
  Stream stream;
};

}  // namespace lamina::test

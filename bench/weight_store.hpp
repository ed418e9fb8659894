// Original and canonical weights, made once for all cases that share them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "distributed/compress.hpp"
#include "distributed/sharded_layer.hpp"
#include "distributed/svd.hpp"
#include "kernels/weights/source.hpp"

namespace lamina {

// One weight matrix of a case, and where it comes from.
struct LayerRef {
  std::string label;  // "down_proj"
  Shape shape;
  int64_t halves = 1;
  std::string weights;               // a file or folder; empty: synthetic
  std::vector<std::string> tensors;  // in it
  SyntheticOptions synthetic;
  uint64_t seed = 1;
  // Equal keys mean equal weights and activations.
  std::string key() const;
  std::unique_ptr<WeightSource> open() const;
  // Tokens of its held-out input stream, [tokens × K].
  Matrix<float> activations(int64_t tokens) const;
  // Tokens [first, first + out.rows) of the stream that compression may look at.
  void calibration(int64_t first, Matrix<float>& out) const;
};

// Tokens that `quality` is computed on, whatever a case's own count: so schemes compare across token counts.
inline constexpr int64_t kQualityTokens = 16;

// Compressed weights in the layout of a shard and kernel.
struct PackedLayer {
  PackedLayer(std::shared_ptr<const CompressedWeights> from, const ShardedOptions& options,
              const Registry& registry, Communicator& comm)
      : weights(std::move(from)), layer(*weights, options, registry, comm) {}
  std::shared_ptr<const CompressedWeights> weights;
  ShardedLayer layer;
};

// Every call is collective over the communicator given.
class WeightStore {
 public:
  explicit WeightStore(int threads) : threads_(threads) {}
  std::shared_ptr<const OriginalWeights> original(const LayerRef& layer, Communicator& comm);
  std::shared_ptr<const CompressedWeights> compressed(const LayerRef& layer, const Scheme& scheme,
                                                      Communicator& comm);
  // Throws NoKernelError.
  std::shared_ptr<PackedLayer> packed(const LayerRef& layer, const Scheme& scheme,
                                      const ShardedOptions& options, const Registry& registry,
                                      Communicator& comm);
  // Original weights times `x` in float64, [tokens × N] on every rank; kept under `purpose` beside the layer.
  std::shared_ptr<const Matrix<double>> product(const LayerRef& layer, const std::string& purpose,
                                                const Matrix<float>& x, Communicator& comm);
  // The original weights as factorisations take them, beside no other copy.
  std::shared_ptr<const SpreadMatrix> spread(const LayerRef& layer, const Distribution& distribution,
                                             Communicator& comm);
  // The transport of this name for the ranks' memory on a device, made once for all cases; `max_bytes` as
  // TransportOptions has it. Throws AgreedError.
  Transport& transport(const std::string& name, const std::string& device, Communicator& comm,
                       int64_t max_bytes);
  // Memory that the cases of one packed_group share: the same for the same purpose, size and device.
  std::shared_ptr<Buffer> buffer(const std::string& purpose, int64_t bytes, Device& device);
  // The least error of factors of this rank, for cases to leave here and find again; NaN before.
  double& optimal_error(const LayerRef& layer, int64_t rank, const Communicator& comm);
  void clear_packed() {
    packed_.clear();
    buffers_.clear();
  }
  void clear();

 private:
  OriginalWeights load(const LayerRef& layer, Communicator& comm) const;

  struct KeptTransport {
    std::unique_ptr<Transport> transport;
    int64_t max_bytes = 0;
  };

  int threads_;
  // Kept to the end: setting one up may take seconds, and layers may still run on one that was too small
  // since.
  std::map<std::string, std::vector<KeptTransport>> transports_;
  std::map<std::string, FactorMemory> factors_;
  std::map<std::string, std::shared_ptr<PackedLayer>> packed_;
  std::map<std::string, std::shared_ptr<Buffer>> buffers_;
  std::map<std::string, std::shared_ptr<const OriginalWeights>> originals_;
  std::map<std::string, std::shared_ptr<const CompressedWeights>> compressed_;
  std::map<std::string, std::shared_ptr<const Matrix<double>>> products_;
  std::map<std::string, std::shared_ptr<const SpreadMatrix>> spread_;
  std::map<std::pair<std::string, int64_t>, double> optimal_errors_;
};

}  // namespace lamina

// Original and canonical weights, made once for all cases that share them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "bench/record.hpp"
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
  // Recorded inputs [recorded tokens × K] and cotangents of the outputs [recorded tokens × N], tensors of
  // .safetensors files; empty: synthetic ones. Calibration takes tokens from the first on, quality and timing
  // from the last backwards.
  std::string inputs, inputs_tensor, cotangents, cotangents_tensor;
  // Of a down projection: the gate_up projection before it, of whose outputs calibration tokens are made.
  std::shared_ptr<const LayerRef> behind;
  std::string compressed;  // a file of `lamina compress`, which has all schemes but dense ones
  uint64_t seed = 1;
  // That `quality` is computed on, whatever a case's own count: so schemes compare across token counts.
  int64_t quality_tokens = kQualityTokens;
  // Equal keys mean equal weights and activations.
  std::string key() const;
  std::unique_ptr<WeightSource> open() const;
  // Tokens of its held-out input stream, [tokens × K].
  Matrix<float> activations(int64_t tokens) const;
  // Tokens [first, first + out.rows) of the stream that compression may look at.
  void calibration(int64_t first, Matrix<float>& out) const;
  // Cotangents of the outputs in `features` for those.
  void output_cotangents(int64_t first, Range features, Matrix<float>& out) const;
  // What decides the first `tokens` tokens that calibration() gives, and their cotangents: the generator's
  // keys, or a digest of what was recorded. Equal texts mean equal calibration.
  std::string calibrated_by(int64_t tokens) const;
  // Throws std::runtime_error, naming the file, unless the recorded tensors have the layer's sizes, at least
  // `calibration` + `evaluation` tokens where inputs are recorded (`calibration` where cotangents alone are),
  // as many of either, and finite numbers. Files are read once.
  void check_recorded(int64_t calibration, int64_t evaluation) const;
};

// Compressed weights in the layout of a shard and kernel.
struct PackedLayer {
  PackedLayer(std::shared_ptr<const CompressedWeights> from, const ShardedOptions& options,
              const Registry& registry, Communicator& comm)
      : weights(std::move(from)), layer(*weights, options, registry, comm) {}
  std::shared_ptr<const CompressedWeights> weights;
  ShardedLayer layer;
};

// Between GPUs that factorise for scheme `lowrank`.
inline constexpr const char* kFactorTransport = "nccl";

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
  // Original weights times `x` in float64, [tokens × N] on every rank; kept under `purpose`, for so many
  // tokens, beside the layer.
  std::shared_ptr<const Matrix<double>> product(const LayerRef& layer, const std::string& purpose,
                                                const Matrix<float>& x, Communicator& comm);
  // The original weights as factorisations take them, beside no other copy.
  std::shared_ptr<const SpreadMatrix> spread(const LayerRef& layer, const Distribution& distribution,
                                             Communicator& comm);
  // The transport of this name for the ranks' memory on a device, made once for all cases. Throws
  // AgreedError: where it could not be made, the same at every later call, without another try.
  Transport& transport(const std::string& name, const std::string& device, Communicator& comm);
  // Those over so many ranks; no layer that runs on one may be left.
  void drop_transports(Communicator& comm);
  // Memory that the cases of one packed_group share: the same for the same purpose, size and device.
  std::shared_ptr<Buffer> buffer(const std::string& purpose, int64_t bytes, Device& device);
  // The least error of factors of this rank, for cases to leave here and find again; NaN before.
  double& optimal_error(const LayerRef& layer, int64_t rank, const Communicator& comm);
  // Both give the memory back to the system, for other ranks to use.
  void clear_packed();
  void clear();

 private:
  // What calibrates it: its own stream, or what the layer that it is behind makes of that one's.
  Calibration calibration(const LayerRef& layer, int64_t tokens, Communicator& comm);
  OriginalWeights load(const LayerRef& layer, Communicator& comm) const;

  int threads_;
  // Kept between groups: setting one up may take seconds.
  std::map<std::string, std::unique_ptr<Transport>> transports_;
  std::map<std::string, std::string> failed_transports_;  // why; a try may take a minute
  std::map<std::string, FactorMemory> factors_;
  std::map<std::string, std::shared_ptr<PackedLayer>> packed_;
  std::map<std::string, std::shared_ptr<Buffer>> buffers_;
  std::map<std::string, std::shared_ptr<const OriginalWeights>> originals_;
  std::map<std::string, std::shared_ptr<const CompressedWeights>> compressed_;
  std::map<std::string, std::shared_ptr<const Matrix<double>>> products_;
  std::map<std::string, std::shared_ptr<const SpreadMatrix>> spread_;
  std::map<std::string, std::shared_ptr<const Matrix<float>>> gated_;
  std::map<std::pair<std::string, int64_t>, double> optimal_errors_;
};

}  // namespace lamina

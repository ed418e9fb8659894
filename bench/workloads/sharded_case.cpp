#include "bench/workloads/sharded_case.hpp"

#include <algorithm>

#include "bench/workloads/placement.hpp"

namespace lamina {

Cost add(const Cost& a, const Cost& b) {
  return {a.operations + b.operations, a.integer || b.integer, a.read_bytes + b.read_bytes,
          a.write_bytes + b.write_bytes};
}

void describe_layers(Record& record, const std::vector<PackedLayer*>& layers, int64_t tokens) {
  Communicator& comm = layers.front()->layer.comm();
  double weight_bytes = 0, dense16_bytes = 0, executed = 0;
  int64_t comm_bytes = 0;
  double seconds = 0;
  int64_t peak = 0;
  for (const PackedLayer* one : layers) {
    const CompressedWeights& weights = *one->weights;
    weight_bytes += static_cast<double>(one->layer.weight_bytes());
    executed += one->layer.cost(tokens).operations;
    comm_bytes += one->layer.comm_bytes(tokens);
    dense16_bytes += 2.0 * static_cast<double>(weights.shape.in_features) *
                     static_cast<double>(weights.shape.out_features);
    seconds += weights.seconds;
    peak = std::max(peak, weights.peak_bytes);
  }
  weight_bytes = comm.sum(weight_bytes);
  executed = comm.sum(executed);
  record.set("weight_bytes", static_cast<int64_t>(weight_bytes));
  record.set("compression_ratio", dense16_bytes / weight_bytes);
  record.set("gflops_executed", executed);  // operations for now; the runner divides by the time
  record.set("comm_bytes", comm_bytes);
  record.set("compress_s", seconds);
  record.set("compress_peak_bytes", peak);
  record.set("kernel", layers.front()->layer.kernel_name());
  record.set("isa", layers.front()->layer.isa());
  const Leaf& leaf = layers.front()->weights->canonical.leaves.front();
  record.set("weight_dtype", leaf.bits == 32 ? "f32" : leaf.bits == 8 ? "int8" : "int4");
  record.set("activation_dtype", leaf.activation == ActivationRule::int8_per_token ? "int8" : "f32");
}

bool replicate_cold(const std::vector<ShardedLayer*>& layers, int64_t cold_bytes) {
  Communicator& comm = layers.front()->comm();
  double bytes = 0;
  for (const ShardedLayer* layer : layers) bytes += static_cast<double>(layer->weight_bytes());
  bytes = comm.sum(bytes) / comm.size();
  const int copies = copies_for(cold_bytes, bytes);
  for (ShardedLayer* layer : layers) layer->replicate(copies);
  return cold_bytes > 0 && copies * bytes >= static_cast<double>(cold_bytes);
}

}  // namespace lamina

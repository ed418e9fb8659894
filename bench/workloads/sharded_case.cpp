#include "bench/workloads/sharded_case.hpp"

#include <algorithm>

namespace lamina {

Cost add(const Cost& a, const Cost& b) {
  return {a.operations + b.operations, a.integer || b.integer, a.read_bytes + b.read_bytes,
          a.write_bytes + b.write_bytes};
}

void describe_layers(Record& record, const std::vector<ShardedLayer*>& layers,
                     const std::vector<std::shared_ptr<const CompressedWeights>>& weights, int64_t tokens) {
  Communicator& comm = layers.front()->comm();
  double weight_bytes = 0, dense16_bytes = 0, executed = 0;
  int64_t comm_bytes = 0;
  double seconds = 0;
  int64_t peak = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    weight_bytes += static_cast<double>(layers[i]->weight_bytes());
    executed += layers[i]->cost(tokens).operations;
    comm_bytes += layers[i]->comm_bytes(tokens);
    dense16_bytes += 2.0 * static_cast<double>(weights[i]->shape.in_features) *
                     static_cast<double>(weights[i]->shape.out_features);
    seconds += weights[i]->seconds;
    peak = std::max(peak, weights[i]->peak_bytes);
  }
  weight_bytes = comm.sum(weight_bytes);
  executed = comm.sum(executed);
  record.set("weight_bytes", static_cast<int64_t>(weight_bytes));
  record.set("compression_ratio", dense16_bytes / weight_bytes);
  record.set("gflops_executed", executed);  // operations for now; the runner divides by the time
  record.set("comm_bytes", comm_bytes);
  record.set("compress_s", seconds);
  record.set("compress_peak_bytes", peak);
  record.set("kernel", layers.front()->kernel_name());
  record.set("isa", layers.front()->isa());
  const Leaf& leaf = weights.front()->canonical.leaves.front();
  record.set("weight_dtype", leaf.bits == 32 ? "f32" : leaf.bits == 8 ? "int8" : "int4");
  record.set("activation_dtype", leaf.activation == ActivationRule::int8_per_token ? "int8" : "f32");
}

}  // namespace lamina

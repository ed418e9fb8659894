// One line for each sink.
#include "bench/sinks/sink.hpp"

namespace lamina {

const std::vector<Sink>& sinks() {
  static const std::vector<Sink> list = {
      table_sink(),
      pareto_sink(),
      scaling_sink(),
      csv_sink(),
      google_benchmark_sink(),
      google_benchmark_median_sink(),
      smaller_is_better_sink(),
      bigger_is_better_sink(),
      bencher_sink(),
      fom_sink(),
      nccl_sink(),
  };
  return list;
}

const Sink* find_sink(std::string_view name) {
  for (const Sink& sink : sinks()) {
    if (sink.name == name) return &sink;
  }
  return nullptr;
}

}  // namespace lamina

#include "bench/workload.hpp"

#include "bench/workloads/layer.hpp"
#include "bench/workloads/mlp.hpp"

namespace lamina {

const std::vector<WorkloadType>& workloads() {
  static const std::vector<WorkloadType> all = {layer_workload(), mlp_workload()};
  return all;
}

const WorkloadType* find_workload(std::string_view name) {
  for (const WorkloadType& type : workloads())
    if (type.name == name) return &type;
  return nullptr;
}

}  // namespace lamina

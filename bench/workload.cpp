#include "bench/workload.hpp"

#include <fmt/format.h>

#include "bench/workloads/collective.hpp"
#include "bench/workloads/layer.hpp"
#include "bench/workloads/mlp.hpp"
#include "bench/workloads/svd.hpp"
#include "distributed/compress.hpp"

namespace lamina {

CheckResult ForwardCase::check() {
  if (!promise().broken()) return check_outputs();
  return {.passed = false, .error = promise().error, .tolerance = promise().bound, .where = ""};
}

std::string ForwardCase::failure(const CheckResult& check) const {
  if (promise().broken()) return failure_of(promise());
  return fmt::format("the kernel's result is wrong at {}: error {:.3g}, tolerance {:.3g}", check.where,
                     check.error, check.tolerance);
}

const std::vector<WorkloadType>& workloads() {
  static const std::vector<WorkloadType> all = {layer_workload(), mlp_workload(), svd_workload(),
                                                collective_workload()};
  return all;
}

const WorkloadType* find_workload(std::string_view name) {
  for (const WorkloadType& type : workloads())
    if (type.name == name) return &type;
  return nullptr;
}

}  // namespace lamina

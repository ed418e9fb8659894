#include <fmt/format.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

const CpuOps* forced_ops = nullptr;

const CpuOps& choose_ops() {
  const std::vector<const CpuOps*> available = cpu_ops_available();
  const char* wanted = std::getenv("LAMINA_ISA");
  if (wanted == nullptr || *wanted == '\0') return *available.back();
  std::string names;
  for (const CpuOps* ops : available) {
    if (ops->name == std::string(wanted)) return *ops;
    names += (names.empty() ? "" : ", ") + std::string(ops->name);
  }
  throw std::runtime_error(fmt::format(
      "LAMINA_ISA: expected an instruction set that this processor has ({}), found \"{}\"", names, wanted));
}

}  // namespace

std::vector<const CpuOps*> cpu_ops_available() {
  std::vector<const CpuOps*> available = {&portable_ops()};
#ifdef LAMINA_X86
  // What the flags of the isa_*.cpp let the compiler use; these also ask whether the
  // operating system saves the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                    __builtin_cpu_supports("popcnt");
  if (avx2) available.push_back(&avx2_ops());
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) available.push_back(&avx512_ops());
  if (avx512 && __builtin_cpu_supports("avx512vnni")) available.push_back(&avx512_vnni_ops());
#endif
  return available;
}

const CpuOps& cpu_ops() {
  if (forced_ops != nullptr) return *forced_ops;
  static const CpuOps& chosen = choose_ops();
  return chosen;
}

void set_cpu_ops(const CpuOps* ops) {
  forced_ops = ops;
}

}  // namespace lamina

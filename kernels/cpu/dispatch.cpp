#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

const CpuOps* forced_ops = nullptr;

#ifdef LAMINA_X86
// The kernel saves the tile registers, 8 KB a thread, only of processes that have asked for it; once is for
// all their threads.
bool tiles_permitted() {
#ifdef SYS_arch_prctl
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
#else
  return false;
#endif
}
#endif

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
                    __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("f16c");
  if (avx2) available.push_back(&avx2_ops());
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) available.push_back(&avx512_ops());
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (vnni) available.push_back(&avx512_vnni_ops());
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  if (bf16) available.push_back(&avx512_bf16_ops());
  const bool amx = bf16 && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                   __builtin_cpu_supports("amx-bf16");
  if (amx && tiles_permitted()) available.push_back(&amx_ops());
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

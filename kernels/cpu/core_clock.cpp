#include "kernels/cpu/core_clock.hpp"

#include <algorithm>
#include <chrono>

namespace lamina {

#if defined(__x86_64__) || defined(__aarch64__)

#if defined(__x86_64__)
// Of two registers: since Golden Cove additions of constants are done before they are issued, several a
// cycle.
#define LAMINA_ADD "add %1, %0\n\t"
#define LAMINA_WAIT "lfence"
#else
#define LAMINA_ADD "add %0, %0, %1\n\t"
#define LAMINA_WAIT "dsb sy\n\tisb"
#endif
#define LAMINA_ADD8 LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD

bool counts_cycles() {
  return true;
}

void spend_cycles(int64_t cycles) {
  unsigned long sum = 1;
  const unsigned long step = 3;
  asm volatile(LAMINA_WAIT ::: "memory");  // nothing before or after goes on meanwhile
  for (int64_t i = 0; i < cycles / 32; ++i)
    asm volatile(LAMINA_ADD8 LAMINA_ADD8 LAMINA_ADD8 LAMINA_ADD8 : "+r"(sum) : "r"(step));
  for (int64_t i = 0; i < cycles % 32; ++i) asm volatile(LAMINA_ADD : "+r"(sum) : "r"(step));
  asm volatile(LAMINA_WAIT ::: "memory");
}

double core_clock_mhz() {
  using Clock = std::chrono::steady_clock;
  using Us = std::chrono::duration<double, std::micro>;
  constexpr int64_t kCycles = 1 << 12;
  static const double reading_us =
      [] {  // what two readings of the system's clock are apart at least: a percent or two
        double least = 1;
        for (int i = 0; i < 100; ++i) {
          const auto begin = Clock::now();
          least = std::min(least, Us(Clock::now() - begin).count());
        }
        return least;
      }();
  const auto begin = Clock::now();
  spend_cycles(kCycles);
  const double us = Us(Clock::now() - begin).count() - reading_us;
  return us > 0 ? kCycles / us : 0;
}

#else

bool counts_cycles() {
  return false;
}

void spend_cycles(int64_t) {}

double core_clock_mhz() {
  return 0;
}

#endif

}  // namespace lamina

#include "kernels/cpu/core_clock.hpp"

#include <algorithm>
#include <chrono>

namespace lamina {
namespace {

using Clock = std::chrono::steady_clock;
using Us = std::chrono::duration<double, std::micro>;

}  // namespace

double clock_reading_us() {
  static const double least_us = [] {
    double least = 1;
    for (int i = 0; i < 100; ++i) {
      const auto begin = Clock::now();
      least = std::min(least, Us(Clock::now() - begin).count());
    }
    return least;
  }();
  return least_us;
}

#if defined(__x86_64__)

namespace {

// Of two registers: since Golden Cove additions of constants are done before they are issued, several a
// cycle.
#define LAMINA_ADD "add %1, %0\n\t"
#define LAMINA_ADD8 LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD LAMINA_ADD

void add(int64_t times) {
  unsigned long sum = 1;
  const unsigned long step = 3;
  for (int64_t i = 0; i < times / 32; ++i)
    asm volatile(LAMINA_ADD8 LAMINA_ADD8 LAMINA_ADD8 LAMINA_ADD8 : "+r"(sum) : "r"(step));
  for (int64_t i = 0; i < times % 32; ++i) asm volatile(LAMINA_ADD : "+r"(sum) : "r"(step));
}

void wait() {
  asm volatile("lfence" ::: "memory");
}

}  // namespace

bool counts_cycles() {
  return true;
}

void spend_cycles(int64_t cycles) {
  wait();
  add(cycles);
  wait();
}

double core_clock_mhz() {
  constexpr int64_t kCycles = 1 << 12;
  const double reading_us = clock_reading_us();
  wait();
  const auto begin = Clock::now();
  add(kCycles);
  wait();
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

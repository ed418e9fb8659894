#include "kernels/cpu/slowdown.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "kernels/cpu/core_clock.hpp"

namespace lamina {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kColdCalls = 2, kTimedCalls = 6;  // before the others wait
constexpr int kCallsAgain = 512;                // after which the first are timed again
constexpr double kShortUs = 20;                 // of longer ones the clock's readings are no matter

double us_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

// One layer's calls on this thread.
struct Calls {
  const void* layer = nullptr;
  int64_t tokens = 0;
  int made = 0;
  double least_us = 0;
  int64_t cycles = 0;  // to wait
};

// Layers that take turns, as two of a chain do.
Calls& calls_of(const void* layer, int64_t tokens) {
  thread_local std::array<Calls, 4> known;
  thread_local size_t next = 0;
  for (Calls& calls : known)
    if (calls.layer == layer && calls.tokens == tokens) return calls;
  Calls& calls = known[next++ % known.size()];
  calls = {layer, tokens};
  return calls;
}

}  // namespace

double injected_slowdown() {
  return LAMINA_INJECT_SLOWDOWN / 100.0;
}

std::string slowdown_warning() {
  if (injected_slowdown() == 0) return "";
  return fmt::format("built with LAMINA_INJECT_SLOWDOWN={:g}: native kernels are made slower, to test a gate",
                     100 * injected_slowdown());
}

void slow_down(const void* layer, int64_t tokens, double share, const std::function<void()>& work) {
  Calls& calls = calls_of(layer, tokens);
  if (calls.made++ >= kTimedCalls) {
    if (calls.made == kCallsAgain) calls.made = 0;
    work();
    return spend_cycles(calls.cycles);
  }
  const auto begin = Clock::now();
  work();
  const auto once = Clock::now(),
             until = once + std::chrono::duration_cast<Clock::duration>(share * (once - begin));
  while (Clock::now() < until) {
  }
  const double us = us_between(begin, once);
  if (us > kShortUs || !counts_cycles()) {
    calls.made = 0;
    return;
  }
  if (calls.made <= kColdCalls) return;
  calls.least_us = calls.made == kColdCalls + 1 ? us : std::min(calls.least_us, us);
  if (calls.made < kTimedCalls) return;
  // An interruption makes a reading low.
  const double mhz = std::max({core_clock_mhz(), core_clock_mhz(), core_clock_mhz()});
  calls.cycles = static_cast<int64_t>(share * std::max(calls.least_us - clock_reading_us(), 0.0) * mhz);
}

}  // namespace lamina

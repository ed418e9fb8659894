#include "kernels/cpu/slowdown.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "kernels/cpu/core_clock.hpp"

namespace lamina {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTimedCalls = 4;
constexpr double kShortUs = 20;  // of longer ones the clock's readings are no matter

double us_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

// What two readings of the clock are apart with nothing between them.
double clock_us() {
  double least = 1;
  for (int i = 0; i < 20; ++i) {
    const auto begin = Clock::now();
    least = std::min(least, us_between(begin, Clock::now()));
  }
  return least;
}

// The calls of this thread that follow one another.
struct Calls {
  const void* layer = nullptr;
  int64_t tokens = 0;
  int timed = 0;
  double least_us = 0;
  int64_t cycles = 0;  // to wait
};

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
  thread_local Calls calls;
  if (calls.layer != layer || calls.tokens != tokens) calls = {layer, tokens};
  if (calls.timed == kTimedCalls) {
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
    calls.timed = 0;
    return;
  }
  calls.least_us = calls.timed == 0 ? us : std::min(calls.least_us, us);
  if (++calls.timed == kTimedCalls)
    calls.cycles =
        static_cast<int64_t>(share * std::max(calls.least_us - clock_us(), 0.0) * core_clock_mhz());
}

}  // namespace lamina

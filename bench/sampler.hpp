// Timing: interleaved blocks of samples, each the slowest rank's, until the interval is narrow enough.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"

namespace lamina {

inline constexpr int kBlockSamples = 5;
inline constexpr int kMinBlocksForInterval = 6;  // below, no 95 % interval of the median exists
inline constexpr double kMinSampleSeconds = 20e-6;
// About as many samples as max_seconds may hold (or four times min_samples): shorter steps share a sample.
inline constexpr int kMaxSamples = 2000;
// A step that takes longer than max_seconds, and than this, is timed at most kMaxLongSamples times, and not
// again once three times the longer of both are over.
inline constexpr double kLongStepSeconds = 1;
inline constexpr int kMaxLongSamples = 3;
inline constexpr double kSteadyClock = 1.01;  // readings of a steady clock differ by less
inline constexpr int kMinSteadyBlocks = 3;    // that cycles are told of

struct Interval {
  double low = 0, high = 0;
};

// When a series has enough samples. Sees values that all ranks share, so all ranks stop together. The
// precision is tested only after 6 blocks and then whenever there are half as many more: each further look is
// a chance to stop where the interval happens to be narrow and off the mark.
struct StopRule {
  double precision = 0.01;  // half-width of the 95 % interval over the p50
  int64_t min_samples = 30;
  double max_seconds = 5;        // of timed work
  double timeout_seconds = 120;  // a step, or a sample of several, longer than this ends the series
};

// One thing to time: `step` is called on every rank.
struct Series {
  std::function<void()> step;
  // Where a device times its work itself, in place of step and the host's clock: runs so many iterations,
  // each of `steps` steps, and returns their seconds.
  std::function<double(int64_t iterations)> timed = {};
  int64_t steps = 1;
  // MHz of the core that does all of a step, where one does; 0 where that is unknown. Read after every
  // sample.
  std::function<double()> clock_mhz = {};
  StopRule rule;
  std::string name;  // for progress
  // Filled by sample(), through add_block() or add_long():
  std::vector<double> samples_us;  // each: slowest rank's time a step
  std::vector<double>
      block_medians;  // of kBlockSamples samples each; of a long step's samples one, of them all
  // Of the blocks beside which the clock was read and stood still: the cycles of their median, and that
  // clock.
  std::vector<double> block_cycles, block_clocks_mhz;
  int64_t iterations_per_sample = 1;
  bool long_step = false;  // timed a few times only, the first of them included
  int64_t steps_per_sample() const { return iterations_per_sample * steps; }
  double own_s = 0;         // this rank's own time in all of the samples
  double own_us() const;    // and of a step, on average
  std::string stop_reason;  // "precision", "max_seconds", "timeout"
  bool timed_out() const { return stop_reason == "timeout"; }
  // A step's time: the median of block medians, of which interval() is the 95 % interval. One estimator for
  // both, so that the one always lies within the other. NaN without a block, and for what timed out.
  double p50_us() const;
  // Cycles that a step takes on its core, which a moving clock does not change: the median over the blocks of
  // a steady one. NaN with fewer than kMinSteadyBlocks of them.
  double p50_cycles() const;
  bool has_interval() const { return block_medians.size() >= kMinBlocksForInterval; }
  Interval interval() const;  // where has_interval()
  // Takes the seconds of a block's samples, and the core's steady clock beside them (0: none), and applies
  // the rule; needs no clock.
  void add_block(const std::vector<double>& seconds, double beside_mhz = 0);
  // Whether a first step of so many seconds makes this a series of a long step.
  bool is_long(double seconds) const;
  // Takes one sample of a long step.
  void add_long(double seconds);

 private:
  double long_limit_s() const;
  void apply_rule();
  double timed_s_ = 0;
  size_t next_look_ = kMinBlocksForInterval;
};

// The clock that readings agree on, all but the lowest of them within 1 %: that one may have been
// interrupted. 0 where they do not, or are fewer than three: the clock moved among them.
double steady_clock_mhz(std::vector<double> readings);

// 95 % confidence interval of the median from the order statistics of independent values (the sign test's; no
// assumption on their distribution): at least kMinBlocksForInterval of them.
Interval median_interval(std::vector<double> values);
double quantile(std::vector<double> values, double q);  // linear between order statistics
inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

// Times all series in blocks, in an order drawn anew each round (the same on every rank). `progress` is
// called with the number of finished series and the name of the one at work, before and after every block,
// and between samples where 0.1 s have passed: a rank that waits or works for longer than two steps without
// calling it hangs. It must not communicate. Collective over `comm`.
void sample(std::vector<Series*>& series, Communicator& comm, uint64_t seed,
            const std::function<void(int, const std::string&)>& progress);

}  // namespace lamina

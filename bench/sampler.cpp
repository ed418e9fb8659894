#include "bench/sampler.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <random>

namespace lamina {
namespace {

constexpr double kPulseSeconds = 0.1;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One sample on this rank: seconds for `iterations` steps after a common start.
double time_sample(const Series& series, Communicator& comm, int64_t iterations) {
  comm.start_together();
  if (series.timed) return series.timed(iterations);
  const double start = now_s();
  for (int64_t i = 0; i < iterations; ++i) series.step();
  return now_s() - start;
}

// Warms up and finds how many steps make a sample long enough; every rank decides on the slowest rank's time.
void calibrate(Series& series, Communicator& comm, const std::function<void()>& pulse) {
  const StopRule& rule = series.rule;
  const int64_t most = std::max<int64_t>(kMaxSamples, 4 * rule.min_samples);
  // Twice the least, so that a faster moment later still makes samples long enough; and far from a timeout.
  const double wanted = std::max(2 * kMinSampleSeconds, std::min(rule.max_seconds / static_cast<double>(most),
                                                                 rule.timeout_seconds / 8));
  int64_t iterations = 1;
  for (int attempt = 0; attempt < 20; ++attempt) {
    const double own = time_sample(series, comm, iterations), seconds = comm.max(own);
    pulse();
    if (seconds > rule.timeout_seconds) {
      series.stop_reason = "timeout";
      return;
    }
    if (attempt == 0) {
      // Of a step that takes so long, the first is as good as the next, and worth keeping.
      if (series.is_long(seconds)) {
        series.own_s += own;
        return series.add_long(seconds);
      }
      continue;  // else it is cold, and says nothing but a timeout
    }
    if (seconds >= wanted) break;
    const double factor = seconds > 0 ? std::ceil(wanted / seconds) : 16;
    iterations *= static_cast<int64_t>(std::clamp(factor, 2.0, 16.0));
  }
  series.iterations_per_sample = iterations;
}

void run_block(Series& series, Communicator& comm, const std::function<void()>& pulse) {
  if (series.long_step) {
    const double own = time_sample(series, comm, 1), seconds = comm.max(own);
    if (seconds > series.rule.timeout_seconds) {
      series.stop_reason = "timeout";
      return;
    }
    series.own_s += own;
    series.add_long(seconds);
    return;
  }
  // First a sample that only counts against the timeout: the block before left the caches and predictors to
  // another kernel, and one step does not bring all of them back.
  std::vector<double> seconds;
  std::vector<double> clocks_mhz;
  for (int i = 0; i <= kBlockSamples; ++i) {
    seconds.push_back(time_sample(series, comm, series.iterations_per_sample));
    if (series.clock_mhz && i > 0) clocks_mhz.push_back(series.clock_mhz());
    pulse();
  }
  const double own = std::accumulate(seconds.begin() + 1, seconds.end(), 0.0);
  comm.all_reduce(seconds.data(), seconds.data(), kBlockSamples + 1, DType::f64, ReduceOp::max);
  if (*std::max_element(seconds.begin(), seconds.end()) > series.rule.timeout_seconds) {
    series.stop_reason = "timeout";
    return;
  }
  seconds.erase(seconds.begin());
  series.own_s += own;
  series.add_block(seconds, steady_clock_mhz(clocks_mhz));
}

}  // namespace

double Series::p50_us() const {
  return timed_out() ? std::nan("") : median(block_medians);
}

double Series::p50_cycles() const {
  return timed_out() || block_cycles.size() < kMinSteadyBlocks ? std::nan("") : median(block_cycles);
}

double Series::own_us() const {
  return own_s * 1e6 / static_cast<double>(samples_us.size()) / static_cast<double>(steps_per_sample());
}

Interval Series::interval() const {
  return median_interval(block_medians);
}

void Series::add_block(const std::vector<double>& seconds, double beside_mhz) {
  std::vector<double> us;
  for (const double value : seconds) {
    timed_s_ += value;
    us.push_back(value * 1e6 / static_cast<double>(steps_per_sample()));
  }
  samples_us.insert(samples_us.end(), us.begin(), us.end());
  block_medians.push_back(median(std::move(us)));
  if (beside_mhz > 0) {
    block_cycles.push_back(block_medians.back() * beside_mhz);  // µs · MHz
    block_clocks_mhz.push_back(beside_mhz);
  }
  apply_rule();
}

double Series::long_limit_s() const {
  return std::max(rule.max_seconds, kLongStepSeconds);
}

bool Series::is_long(double seconds) const {
  return seconds > long_limit_s();
}

void Series::add_long(double seconds) {
  long_step = true;
  timed_s_ += seconds;
  samples_us.push_back(seconds * 1e6);
  block_medians = {median(samples_us)};
  if (samples_us.size() == kMaxLongSamples || timed_s_ >= 3 * long_limit_s()) stop_reason = "max_seconds";
}

void Series::apply_rule() {
  const size_t blocks = block_medians.size();
  if (blocks >= next_look_ && static_cast<int64_t>(samples_us.size()) >= rule.min_samples) {
    const Interval found = interval();
    if ((found.high - found.low) / 2 <= rule.precision * p50_us()) stop_reason = "precision";
    next_look_ = blocks + (blocks + 1) / 2;
  }
  if (stop_reason.empty() && timed_s_ >= rule.max_seconds) stop_reason = "max_seconds";
}

double steady_clock_mhz(std::vector<double> readings) {
  if (readings.size() < 3) return 0;
  std::sort(readings.begin(), readings.end());
  return readings.back() <= readings[1] * kSteadyClock ? median(readings) : 0;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return std::nan("");
  std::sort(values.begin(), values.end());
  const double position = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - static_cast<double>(below)) * (values[above] - values[below]);
}

Interval median_interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto n = static_cast<int64_t>(values.size());
  // The widest symmetric rank k whose two tails hold at most 5 %: P(Binomial(n, 1/2) < k) ≤ 2.5 %.
  double probability = std::pow(0.5, static_cast<double>(n)), tail = 0;
  int64_t k = 0;
  while (k < n / 2 && tail + probability <= 0.025) {
    tail += probability;
    probability *= static_cast<double>(n - k) / static_cast<double>(k + 1);
    ++k;
  }
  const int64_t low = std::max<int64_t>(k - 1, 0);
  return {values[static_cast<size_t>(low)], values[static_cast<size_t>(n - 1 - low)]};
}

void sample(std::vector<Series*>& series, Communicator& comm, uint64_t seed,
            const std::function<void(int, const std::string&)>& progress) {
  int done = 0;
  // Between samples of long steps too. Each rank goes by its own clock: nothing collective hangs on it.
  double last_pulse = now_s();
  const Series* current = nullptr;
  const auto beat = [&] {
    progress(done, current->name);
    last_pulse = now_s();
  };
  const auto pulse = [&] {
    if (now_s() - last_pulse >= kPulseSeconds) beat();
  };
  for (Series* one : series) {
    current = one;
    pulse();
    calibrate(*one, comm, pulse);
  }
  std::mt19937_64 random(seed);
  std::vector<Series*> open;
  for (Series* one : series) one->stop_reason.empty() ? open.push_back(one) : static_cast<void>(++done);
  while (!open.empty()) {
    // A hand-written Fisher-Yates: std::shuffle's order differs between standard libraries, and ranks must
    // agree.
    for (size_t i = open.size(); i > 1; --i) std::swap(open[i - 1], open[random() % i]);
    std::vector<Series*> next;
    for (Series* one : open) {
      current = one;
      pulse();
      run_block(*one, comm, pulse);
      one->stop_reason.empty() ? next.push_back(one) : static_cast<void>(++done);
      beat();
    }
    open = std::move(next);
  }
}

}  // namespace lamina

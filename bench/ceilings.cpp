#include "bench/ceilings.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/ops.hpp"

namespace lamina {
namespace {

constexpr int64_t kMessageElements =
    1 << 20;  // 4 MiB of float32: past every latency, within every buffer limit
constexpr int64_t kDeviceMessageElements = 16 << 20;  // a GPU's links are faster
constexpr int64_t kComputeIterations = 20'000;
constexpr int64_t kLaunches = 256;  // of an empty kernel, in one graph

int64_t read_bytes(int64_t cache_bytes, int local_ranks) {
  return std::max<int64_t>(4 * cache_bytes / local_ranks, 64 << 20);
}

// What one thread of a team reads: whole blocks of CpuOps::read_sum.
int64_t floats_of_thread(int64_t count, int team) {
  return count / team / 256 * 256;
}

// The best sustained rate: the fastest block, since whatever slows a block is not the machine's limit.
double drift_of(const Series& series) {
  const std::vector<double>& blocks = series.block_medians;
  return blocks.empty() ? 0 : (quantile(blocks, 1.0) - quantile(blocks, 0.0)) / median(blocks);
}

double best_us(const Series& series) {
  return series.block_medians.empty()
             ? 0
             : *std::min_element(series.block_medians.begin(), series.block_medians.end());
}

double rate(double per_rank, int ranks, const Series& series) {
  const double us = best_us(series);
  return us > 0 ? per_rank * ranks / us * 1e-3 : 0;  // units a second, in 10⁹
}

// Kinds that one loop multiplies are measured once.
Arithmetic measured_as(Arithmetic kind) {
  return *std::find_if(kArithmetics.begin(), kArithmetics.end(), [&](Arithmetic other) {
    return cpu_ops().probe(other).run == cpu_ops().probe(kind).run;
  });
}

}  // namespace

Ceilings::Ceilings(Communicator& comm, int threads, int64_t cache_bytes, const StopRule& rule, Device& device,
                   Transport* transport)
    : comm_(comm), transport_(transport), threads_(threads) {
  StopRule short_rule = rule;
  short_rule.min_samples =
      std::min<int64_t>(rule.min_samples, int64_t{kBlockSamples} * kMinBlocksForInterval);
  short_rule.max_seconds = std::min(rule.max_seconds, 0.5);
  probes_ = device.probes();
  probes_.empty() ? measure_host(cache_bytes, short_rule) : measure_device(device, short_rule);
}

// Replays whatever their number of steps: short ones are captured many times.
void Ceilings::measure_device(Device& device, const StopRule& rule) {
  Stream stream = device.stream(threads_);
  device_.resize(probes_.size());
  for (size_t i = 0; i < probes_.size(); ++i) {
    device_[i].steps = probes_[i].kind == DeviceProbe::Kind::launch ? kLaunches : 1;
    replays_.push_back(device.capture(stream, [&] {
      for (int64_t step = 0; step < device_[i].steps; ++step) probes_[i].run(stream);
    }));
    device_[i].rule = rule;
    // An error here ends the series as a timeout would; the cases' own rows say what happened.
    device_[i].timed = [replay = replays_.back().get()](int64_t iterations) {
      try {
        return replay->run(iterations);
      } catch (const DeviceError&) {
        return std::numeric_limits<double>::infinity();
      }
    };
  }
  if (transport_ != nullptr && transport_->capturable()) measure_device_network(device, rule);
}

// Graphs of all-reduces, as layers' steps are: sums, since a transport may do other operations another way.
// What fails there others wait for: no rank goes on without it.
void Ceilings::measure_device_network(Device& device, const StopRule& rule) {
  stream_ = device.stream(threads_);
  message_elements_ = kDeviceMessageElements;
  device_message_ = device.allocate(message_elements_ * int64_t{sizeof(float)});
  device.fill(device_message_.data(), 0, device_message_.bytes());  // a sum in place that stays finite
  const auto reduce = [this](int64_t count) {
    transport_->all_reduce(device_message_.data(), device_message_.data(), count, DType::f32, ReduceOp::sum,
                           stream_);
  };
  const auto time = [&](Series& series, int64_t count, int64_t steps) {
    reduce(count);  // connects, which a capture may not
    std::unique_ptr<Replay> replay = device.capture(stream_, [&] {
      for (int64_t step = 0; step < steps; ++step) reduce(count);
    });
    replay->begin_with([reduce] { reduce(1); });
    series.steps = steps;
    series.rule = rule;
    series.timed = [replay = replay.get()](int64_t iterations) { return replay->run(iterations); };
    replays_.push_back(std::move(replay));
  };
  time(latency_, 2, 32);
  time(bandwidth_, message_elements_, 1);
}

bool Ceilings::measures_network() const {
  return latency_.step || latency_.timed;
}

// The line through both times: what a call takes, and what a byte more.
void Ceilings::set_network(CeilingValues& values) const {
  values.communicator = transport_->name();
  values.all_reduce_latency_us = best_us(latency_);
  const double us = best_us(bandwidth_) - values.all_reduce_latency_us;
  values.all_reduce_gb_per_s =
      us > 0 ? static_cast<double>(message_elements_) * sizeof(float) / us * 1e-3 : 0;
}

CeilingValues Ceilings::device_values() const {
  CeilingValues values;
  values.ranks = comm_.size();
  values.threads = threads_;
  values.device = "cuda";
  for (size_t i = 0; i < probes_.size(); ++i) {
    const DeviceProbe& probe = probes_[i];
    const double reached = rate(probe.work, comm_.size(), device_[i]);
    switch (probe.kind) {
      case DeviceProbe::Kind::read:
        values.read_gb_per_s[threads_] = reached;
        break;
      case DeviceProbe::Kind::copy:
        values.copy_gb_per_s = reached;
        break;
      case DeviceProbe::Kind::launch:
        values.launch_us = best_us(device_[i]);
        break;
      case DeviceProbe::Kind::compute:
        values.gops[probe.arithmetic] = reached;
        break;
    }
  }
  values.drift = drift_of(device_.front());
  if (measures_network()) set_network(values);
  return values;
}

void Ceilings::measure_host(int64_t cache_bytes, const StopRule& short_rule) {
  Communicator& comm = comm_;
  const int threads = threads_;
  data_ = Buffer(read_bytes(cache_bytes, comm.local_size()), threads);
  const int64_t count = data_.bytes() / static_cast<int64_t>(sizeof(float));
  float* data = data_.as<float>();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i)
    data[i] = static_cast<float>(i % 1021) * 1e-3f;  // never one repeated page

  std::vector<int> teams;
  for (int team = 1; team < threads; team *= 2) teams.push_back(team);
  teams.push_back(threads);
  for (int team : teams) {
    for (int form = 0; form < CpuOps::kReadForms; ++form) {
      Series& series = read_[{team, form}];
      series.rule = short_rule;
      series.step = [this, team, form, data, count] {
        double total = 0;
#pragma omp parallel num_threads(team) reduction(+ : total)
        {
          const int64_t part = floats_of_thread(count, omp_get_num_threads());
          total += cpu_ops().read_sum[form](data + part * omp_get_thread_num(), part);
        }
        sink_ = total;
      };
    }
  }
  const auto on_every_thread = [this](double (*work)(int64_t)) {
    return [this, work] {
      double total = 0;
#pragma omp parallel num_threads(threads_) reduction(+ : total)
      total += work(kComputeIterations);
      sink_ = total;
    };
  };
  for (Arithmetic kind : kArithmetics) {
    if (measured_as(kind) != kind) continue;
    compute_[kind].step = on_every_thread(cpu_ops().probe(kind).run);
    compute_[kind].rule = short_rule;
  }
  if (transport_ != nullptr) {
    message_elements_ = kMessageElements;
    message_.assign(static_cast<size_t>(message_elements_), 0.0f);  // a sum in place that stays finite
    latency_.step = [this] {
      transport_->all_reduce(message_.data(), message_.data(), 2, DType::f32, ReduceOp::sum, stream_);
    };
    bandwidth_.step = [this] {
      transport_->all_reduce(message_.data(), message_.data(), kMessageElements, DType::f32, ReduceOp::sum,
                             stream_);
    };
    latency_.rule = bandwidth_.rule = short_rule;
  }
}

int64_t Ceilings::bytes(int64_t cache_bytes, int local_ranks) {
  return read_bytes(cache_bytes, local_ranks) + kMessageElements * int64_t{sizeof(float)};
}

std::vector<Series*> Ceilings::series() {
  std::vector<Series*> all;
  for (Series& series : device_) all.push_back(&series);
  if (measures_network()) {
    all.push_back(&latency_);
    all.push_back(&bandwidth_);
  }
  if (!device_.empty()) return all;
  for (auto& [form, series] : read_) all.push_back(&series);
  for (auto& [kind, series] : compute_) all.push_back(&series);
  return all;
}

CeilingValues Ceilings::values() const {
  if (!device_.empty()) return device_values();
  CeilingValues values;
  values.ranks = comm_.size();
  values.threads = threads_;
  for (const auto& [form, series] : read_) {
    const int team = form.first;
    const int64_t count = data_.bytes() / static_cast<int64_t>(sizeof(float));
    const double bytes = static_cast<double>(floats_of_thread(count, team) * team) * sizeof(float);
    double& best = values.read_gb_per_s[team];
    best = std::max(best, rate(bytes, comm_.size(), series));
  }
  const double work = static_cast<double>(kComputeIterations) * threads_;
  for (Arithmetic kind : kArithmetics) {
    const Series& series = compute_.at(measured_as(kind));
    values.gops[kind] = rate(work * cpu_ops().probe(kind).operations, comm_.size(), series);
  }
  if (measures_network()) set_network(values);
  values.drift = drift_of(compute_.at(Arithmetic::f32));
  return values;
}

Limit limit_of(const CeilingValues& ceilings, double bytes, const ByArithmetic& operations,
               double network_bytes, int collectives) {
  double bandwidth = 0;
  for (const auto& [team, value] : ceilings.read_gb_per_s) bandwidth = std::max(bandwidth, value);
  const double rank_share = 1e3 / ceilings.ranks;  // GB/s of all ranks → bytes/µs of one
  const double memory = bytes / (bandwidth * rank_share);
  double compute = 0;
  for (Arithmetic kind : kArithmetics)
    if (operations[kind] > 0) compute += operations[kind] / (ceilings.gops[kind] * rank_share);
  double network = 0;
  if (collectives > 0 && ceilings.all_reduce_gb_per_s > 0)
    network =
        collectives * ceilings.all_reduce_latency_us + network_bytes / (ceilings.all_reduce_gb_per_s * 1e3);
  Limit limit;
  const double local = std::max(memory, compute);
  limit.us = local + network;
  limit.kind = network > local ? "network" : memory >= compute ? "memory" : "compute";
  return limit;
}

}  // namespace lamina

// The machine's limits, measured in the same run by the same ranks and threads, interleaved with the cases.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/sampler.hpp"
#include "distributed/communicator.hpp"
#include "distributed/transport.hpp"
#include "kernels/buffer.hpp"
#include "kernels/layer.hpp"

namespace lamina {

// All ranks of the group together.
struct CeilingValues {
  int ranks = 1, threads = 1;
  std::map<int, double> read_gb_per_s;  // by threads a rank
  ByArithmetic gops;                    // 10⁹ operations a second; a multiply-add counts two
  std::string communicator;             // that its collectives ran on; empty where there were none
  // An all-reduce of n bytes takes latency + n / rate: the line through 8 bytes and 4 MiB, of GPUs 64. 0
  // without collectives.
  double all_reduce_latency_us = 0;
  double all_reduce_gb_per_s = 0;
  double copy_gb_per_s = 0;  // of a device: read and written bytes together; 0 on the CPU
  double launch_us = 0;      // of a device: an empty kernel after another; 0 on the CPU
  std::string device = "cpu";
  double drift =
      0;  // spread over median of the float32 rate's blocks, of a device the read rate's: steadiness
};

// Time that no kernel of this cost can beat: the larger of bytes over bandwidth and operations over rate
// (summed over the kinds of arithmetic), of the rank with most, plus the collectives'.
struct Limit {
  std::string kind;  // "memory", "compute", "network"
  double us = 0;
};
Limit limit_of(const CeilingValues& ceilings, double bytes, const ByArithmetic& operations,
               double network_bytes, int collectives);

// The probes of one group; series() are sampled among the cases', then values() reads them.
class Ceilings {
 public:
  // `cache_bytes`: a node's last-level caches together; the read buffer is four times that over the node's
  // ranks. A device with probes of its own is measured by those alone.
  // `transport`: what the group's layers move data with, which its collectives are timed on; null: none.
  Ceilings(Communicator& comm, int threads, int64_t cache_bytes, const StopRule& rule, Device& device,
           Transport* transport);
  // What a rank of them takes: the read buffer and a message.
  static int64_t bytes(int64_t cache_bytes, int local_ranks);
  std::vector<Series*> series();
  CeilingValues values() const;

 private:
  void measure_host(int64_t cache_bytes, const StopRule& rule);
  void measure_device(Device& device, const StopRule& rule);
  void measure_device_network(Device& device, const StopRule& rule);
  bool measures_network() const;
  CeilingValues device_values() const;
  void set_network(CeilingValues& values) const;

  Communicator& comm_;
  Transport* transport_;
  int threads_;
  Stream stream_;
  Buffer data_;
  std::vector<float> message_;
  Buffer device_message_;
  int64_t message_elements_ = 0;
  std::map<std::pair<int, int>, Series> read_;  // by threads, and forms of CpuOps::read_sum
  std::map<Arithmetic, Series> compute_;        // one of those that one loop multiplies
  Series latency_, bandwidth_;
  std::vector<DeviceProbe> probes_;  // of a device, their replays and series
  std::vector<std::unique_ptr<Replay>> replays_;
  std::vector<Series> device_;
  volatile double sink_ = 0;
};

}  // namespace lamina

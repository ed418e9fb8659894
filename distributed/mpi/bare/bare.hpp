// Loops of all-reduces as nccl-tests and OSU's benchmarks time them, without anything of Lamina's: what its
// rows are held against (docs/collectives.md, scripts/compare_bare.py).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace bare {

struct Options {
  std::vector<int64_t> bytes;
  int iterations = 0;  // a repeat; 0: as nccl-tests (20) on GPUs, else as many as last a millisecond
  int repeats = 0;
};

// A loop of one size: microseconds a call, one number a repeat.
struct Row {
  std::string communicator;
  bool on_gpu = false, graph = false;
  int64_t bytes = 0;
  int iterations = 0;
  std::vector<double> us;
};

// Each repeat: all ranks meet, and `calls` runs between two looks at the clock. The mean over ranks, as both
// programs print it. Collective.
std::vector<double> time_repeats(int repeats, int iterations, const std::function<void()>& calls);

// Numbers a rank sums; never zeros, which move with less power.
void fill_random(float* data, int64_t count, int rank);

// Why there is nothing to time between GPUs; empty: there is. Local.
std::string gpu_absence();
// ncclAllReduce on every size, put on the stream call by call and captured in a graph. Collective.
std::vector<Row> time_nccl(const Options& options);

}  // namespace bare

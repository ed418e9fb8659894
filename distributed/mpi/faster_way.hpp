// Which of two ways to do a collective is the faster one, measured where it runs.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <utility>

#include "distributed/mpi/group.hpp"
#include "distributed/transport.hpp"

namespace lamina {

// Lamina's own way of a collective, or the MPI library's: the first calls of a kind and size (to a power of
// two) take both by turns, and after those, by the slowest rank's best times, all ranks the same one. For
// collectives that move bytes: their results do not tell which way they came.
class FasterWay {
 public:
  explicit FasterWay(MpiGroup& group) : group_(group) {}

  // Collective; `bytes` is the same on all ranks. Below kLeastBytes it is always our own.
  template <class Own, class Mpi>
  void run(CollectiveKind kind, int64_t bytes, Own&& own, Mpi&& mpi) {
    if (bytes < kLeastBytes) return own();
    Trial& trial = trials_[{kind, std::bit_width(static_cast<uint64_t>(bytes))}];
    const int way = trial.calls < kCalls ? trial.calls % 2 : trial.way;
    if (trial.calls == kCalls) return way == 0 ? own() : mpi();
    const auto begin = std::chrono::steady_clock::now();
    way == 0 ? own() : mpi();
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    trial.us[static_cast<size_t>(way)] = std::min(trial.us[static_cast<size_t>(way)], us);
    if (++trial.calls < kCalls) return;
    group_.all_reduce(trial.us.data(), trial.us.data(), 2, DType::f64, ReduceOp::max);
    trial.way = trial.us[1] < trial.us[0] ? 1 : 0;
  }

 private:
  static constexpr int64_t kLeastBytes = 64 << 10;
  static constexpr int kCalls = 40;  // the first of each way is cold
  struct Trial {
    int calls = 0, way = 0;
    std::array<double, 2> us = {std::numeric_limits<double>::max(), std::numeric_limits<double>::max()};
  };

  MpiGroup& group_;
  std::map<std::pair<CollectiveKind, int>, Trial> trials_;
};

}  // namespace lamina

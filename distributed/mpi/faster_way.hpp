// Which of two ways to do a collective is the faster one, measured where it runs.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include "distributed/mpi/group.hpp"
#include "distributed/transport.hpp"

namespace lamina {

// Lamina's own way of a collective, or the MPI library's: the first calls of a kind and size take a few of
// the one and a few of the other by turns, and after those, by the slowest rank's mean times, all ranks the
// same one. Of exactly that size: codes of compressed sums, still in the cache, may go faster the other way
// than numbers of about as many bytes. For collectives that move bytes: their results do not tell which way
// they came.
class FasterWay {
 public:
  explicit FasterWay(MpiGroup& group) : group_(group) {}

  // That were trials.
  int64_t calls() const { return calls_; }

  // Collective; `bytes` is the same on all ranks. Below `least` it is always our own.
  template <class Own, class Mpi>
  void run(CollectiveKind kind, int64_t bytes, int64_t least, Own&& own, Mpi&& mpi) {
    if (bytes < least) return own();
    Trial& trial = trials_[{kind, bytes}];
    if (trial.calls == kCalls) return trial.mpi ? mpi() : own();
    const size_t turn = static_cast<size_t>(trial.calls / kTurn);
    const auto begin = std::chrono::steady_clock::now();
    turn % 2 == 0 ? own() : mpi();
    const double us =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
    if (trial.calls % kTurn >= kCold) trial.us[turn] += us;
    ++calls_;
    if (++trial.calls < kCalls) return;
    group_.all_reduce(trial.us.data(), trial.us.data(), kTurns, DType::f64, ReduceOp::max);
    trial.mpi = std::min(trial.us[1], trial.us[3]) < std::min(trial.us[0], trial.us[2]);
  }

 private:
  // Calls one way in a row, of which the first find the caches as the other way left them; turns of both
  // ways.
  static constexpr int kTurn = 8, kCold = 3, kTurns = 4, kCalls = kTurns * kTurn;
  struct Trial {
    int calls = 0;
    bool mpi = false;
    std::array<double, kTurns> us = {};
  };

  MpiGroup& group_;
  int64_t calls_ = 0;
  std::map<std::pair<CollectiveKind, int64_t>, Trial> trials_;
};

}  // namespace lamina

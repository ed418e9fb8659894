// The set-up of something among ranks that goes on in a thread of its library, and may never come to an end.
// Knows no library: any course of it can be tried.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "distributed/communicator.hpp"

namespace lamina {

struct SetUpState {
  bool going = false;        // nothing can be said yet
  std::string problem = {};  // of one that has come to an end; empty: it is done
};

class AgreedSetUp {
 public:
  // The time starts. `slow`: what may be wrong where it is over, and what to do. `give_up` is called on every
  // rank where any has not come through, and must not communicate.
  AgreedSetUp(Communicator& comm, std::string name, double timeout_seconds, std::string slow,
              std::function<void()> give_up);
  // Asks until this rank's step is no longer going or the time is over. Collective: AgreedError, with the
  // first such rank and its problem, on every rank where any has one.
  void settle(const std::function<SetUpState()>& ask);

 private:
  Communicator& comm_;
  std::string name_, slow_;
  double timeout_seconds_;
  std::function<void()> give_up_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace lamina

// How far a run is, on a terminal; and a guard against ranks that wait for each other for ever.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

#include "distributed/communicator.hpp"

namespace lamina {

// One line on stderr, redrawn; nothing where stderr is not a terminal.
class Progress {
 public:
  Progress(bool speaks, int64_t total, double estimated_s);
  ~Progress();
  void show(const std::string& what, int64_t done);
  void clear();
  // A whole line that stays, terminal or not.
  void say(const std::string& line);

 private:
  bool speaks_, terminal_, drawn_ = false;
  int64_t total_;
  double estimated_s_;
  std::chrono::steady_clock::time_point start_, last_;
};

// Ends the job, naming rank and place, when beat() is not called for `limit_s`.
class Watchdog {
 public:
  Watchdog(const Communicator& world, double limit_s);
  ~Watchdog();
  void beat(const std::string& place);
  // Until the next beat: waiting for others that have watchdogs of their own is no hang.
  void pause();

 private:
  void watch();
  const Communicator& world_;
  double limit_s_;
  std::mutex mutex_;
  std::string place_ = "start";
  bool paused_ = false;
  std::chrono::steady_clock::time_point last_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace lamina

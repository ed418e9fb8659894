#include "bench/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "bench/text.hpp"

namespace lamina {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Progress::Progress(bool speaks, int64_t total, double estimated_s)
    : speaks_(speaks),
      terminal_(isatty(STDERR_FILENO) == 1),
      total_(total),
      estimated_s_(estimated_s),
      start_(std::chrono::steady_clock::now()),
      last_(start_ - std::chrono::seconds(1)) {}

Progress::~Progress() {
  clear();
}

void Progress::show(const std::string& what, int64_t done) {
  if (!speaks_ || !terminal_ || seconds_since(last_) < 0.1) return;
  last_ = std::chrono::steady_clock::now();
  // By what was done so far, once that says more than the estimate.
  const double elapsed = seconds_since(start_);
  const double share = static_cast<double>(done) / static_cast<double>(std::max<int64_t>(total_, 1));
  const double left = share > 0.05 ? elapsed * (1 - share) / share : std::max(0.0, estimated_s_ - elapsed);
  std::string line = fmt::format("[{}/{}] {:.0f} s left  {}", done, total_, left, printable(what));
  if (line.size() > 100) line.resize(100);
  fmt::print(stderr, "\r\x1b[2K{}", line);
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[2K");
  drawn_ = false;
}

void Progress::say(const std::string& line) {
  if (!speaks_) return;
  clear();
  fmt::print(stderr, "lamina: {}\n", line);
}

Watchdog::Watchdog(const Communicator& world, double limit_s)
    : world_(world),
      limit_s_(limit_s),
      last_(std::chrono::steady_clock::now()),
      thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  stop_ = true;
  thread_.join();
}

void Watchdog::beat(const std::string& place) {
  const std::lock_guard lock(mutex_);
  place_ = place;
  paused_ = false;
  last_ = std::chrono::steady_clock::now();
}

void Watchdog::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
}

void Watchdog::watch() {
  while (!stop_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::lock_guard lock(mutex_);
    if (!paused_ && seconds_since(last_) > limit_s_)
      abort_job(world_, fmt::format("no progress for {:.0f} s at {}; another rank may have died or hang",
                                    limit_s_, place_));
  }
}

}  // namespace lamina

#include "distributed/set_up.hpp"

#include <fmt/format.h>

#include <thread>
#include <utility>

namespace lamina {

AgreedSetUp::AgreedSetUp(Communicator& comm, std::string name, double timeout_seconds, std::string slow,
                         std::function<void()> give_up)
    : comm_(comm),
      name_(std::move(name)),
      slow_(std::move(slow)),
      timeout_seconds_(timeout_seconds),
      give_up_(std::move(give_up)) {}

void AgreedSetUp::settle(const std::function<SetUpState()>& ask) {
  const auto over = [this] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count() >=
           timeout_seconds_;
  };
  SetUpState state = ask();
  while (state.going && !over()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    state = ask();
  }
  std::string problem = state.problem;
  if (state.going) problem = fmt::format("not set up within {:.0f} s: {}", timeout_seconds_, slow_);
  const Agreement agreement = comm_.agree(problem.empty() ? "" : name_ + ": " + problem);
  if (agreement.ok) return;
  give_up_();
  throw AgreedError(fmt::format("rank {}: {}", agreement.rank, agreement.message));
}

}  // namespace lamina

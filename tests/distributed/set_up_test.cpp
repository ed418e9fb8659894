// Set-ups that ranks wait for: one that never comes to an end, one that fails, one after the other.
#include "distributed/set_up.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "bench/weight_store.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

const SetUpState kDone{}, kGoing{.going = true};

// How often it gave up, and the message; empty: it was set up.
struct Outcome {
  int given_up = 0;
  std::string message;
  double seconds = 0;
};
Outcome outcome_of(double timeout_seconds, const std::function<void(AgreedSetUp&)>& steps) {
  Outcome outcome;
  const auto begin = std::chrono::steady_clock::now();
  AgreedSetUp set_up(world(), "thing", timeout_seconds, "look at the cable", [&] { ++outcome.given_up; });
  try {
    steps(set_up);
  } catch (const AgreedError& e) {
    outcome.message = e.what();
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

TEST(SetUpOfRanks, IsWaitedForAsLongAsItTakes) {
  int asked = 0;
  const Outcome outcome = outcome_of(60, [&](AgreedSetUp& set_up) {
    set_up.settle([&] { return ++asked < 20 + world().rank() ? kGoing : kDone; });
    set_up.settle([&] { return kDone; });
  });
  EXPECT_EQ(outcome.message, "");
  EXPECT_EQ(outcome.given_up, 0);
  EXPECT_EQ(asked, 20 + world().rank());
}

// As where a rank never arrives: the others' libraries wait for it until their time is over, then all are
// out.
TEST(SetUpOfRanks, EndsForAllWhereOneNeverComesThrough) {
  const int last = world().size() - 1;
  const Outcome outcome = outcome_of(0.2, [&](AgreedSetUp& set_up) {
    set_up.settle([&] { return world().rank() == last ? kGoing : kDone; });
  });
  EXPECT_THAT(outcome.message,
              AllOf(StartsWith("rank " + std::to_string(last) + ": thing: not set up within 0 s"),
                    HasSubstr("look at the cable")));
  EXPECT_EQ(outcome.given_up, 1);
  EXPECT_GE(outcome.seconds, 0.15);
  EXPECT_LT(outcome.seconds, 30);
}

TEST(SetUpOfRanks, FailsForAllWhereItFailsForOne) {
  const Outcome outcome = outcome_of(60, [&](AgreedSetUp& set_up) {
    set_up.settle([&] { return world().rank() == 0 ? SetUpState{.problem = "no route"} : kDone; });
  });
  EXPECT_EQ(outcome.message, "rank 0: thing: no route");
  EXPECT_EQ(outcome.given_up, 1);
  EXPECT_LT(outcome.seconds, 30);
}

// The time is that of all steps together, and the ranks are in step for what comes next.
TEST(SetUpOfRanks, CountsTheTimeOfEarlierSteps) {
  const auto begin = std::chrono::steady_clock::now();
  const Outcome outcome = outcome_of(1, [&](AgreedSetUp& set_up) {
    set_up.settle([&] {
      return std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(700) ? kGoing : kDone;
    });
    set_up.settle([&] { return kGoing; });
  });
  EXPECT_LT(outcome.seconds, 1.6);  // a second of its own would end after 1.7
  EXPECT_THAT(outcome.message, HasSubstr("not set up within"));
  EXPECT_EQ(world().sum(1), world().size());
}

// A row may not wait a minute for what an earlier one waited for in vain.
TEST(SetUpOfRanks, IsNotTriedAgainByLaterRows) {
  if (world().size() == 1) GTEST_SKIP() << "one rank shares no memory";
  world().trim();  // memory that is there already is taken as it is
  WeightStore store(1);
  const auto problem = [&] {
    try {
      store.transport("mpi-shm", "cpu", world());
    } catch (const AgreedError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const char* const usual = std::getenv("LAMINA_SHM_WINDOW_KIB");
  const std::string kept = usual == nullptr ? "" : usual;
  setenv("LAMINA_SHM_WINDOW_KIB", "much", 1);
  const std::string first = problem();
  kept.empty() ? unsetenv("LAMINA_SHM_WINDOW_KIB") : setenv("LAMINA_SHM_WINDOW_KIB", kept.c_str(), 1);
  EXPECT_THAT(first, HasSubstr("found \"much\""));
  EXPECT_EQ(problem(), first);
  store.drop_transports(world());
  EXPECT_EQ(problem(), "");  // those that come after are tried anew
  store.drop_transports(world());
  world().trim();
}

}  // namespace
}  // namespace lamina

// Every collective of every communicator, and starting together.
#include "distributed/communicator.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>

#include "distributed/agree.hpp"
#include "distributed/launcher.hpp"
#include "distributed/mpi/chunks.hpp"
#include "tests/distributed/support.hpp"

namespace lamina {
namespace {

using test::world;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

TEST(Communicator, KnowsItsPlace) {
  EXPECT_GE(world().rank(), 0);
  EXPECT_LT(world().rank(), world().size());
  EXPECT_EQ(world().sum(world().rank()), world().size() * (world().size() - 1) / 2);
  EXPECT_GE(world().nodes(), 1);
  EXPECT_LE(world().nodes(), world().size());
  EXPECT_LT(world().local_rank(), world().local_size());
  EXPECT_FALSE(Launch::library().empty());
}

template <class T>
void expect_reduced(DType dtype, int64_t count) {
  const int size = world().size(), rank = world().rank();
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
    std::vector<T> in(static_cast<size_t>(count)), out(in.size(), T{99});
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>((i + static_cast<size_t>(rank)) % 7);
    world().all_reduce(in.data(), out.data(), count, dtype, op);
    world().all_reduce(in.data(), in.data(), count, dtype, op);
    for (size_t i = 0; i < in.size(); ++i) {
      T expected = static_cast<T>(i % 7);
      for (int r = 1; r < size; ++r) {
        const T term = static_cast<T>((i + static_cast<size_t>(r)) % 7);
        expected = op == ReduceOp::sum   ? static_cast<T>(expected + term)
                   : op == ReduceOp::max ? std::max(expected, term)
                                         : std::min(expected, term);
      }
      ASSERT_EQ(out[i], expected) << i;
      ASSERT_EQ(in[i], expected) << i << " in place";
    }
  }
}

TEST(Communicator, ReducesEveryTypeAndOperation) {
  for (const int64_t count : {0, 1, 1000}) {
    expect_reduced<float>(DType::f32, count);
    expect_reduced<double>(DType::f64, count);
    expect_reduced<int32_t>(DType::i32, count);
    expect_reduced<int64_t>(DType::i64, count);
    expect_reduced<uint8_t>(DType::u8, count);
  }
  expect_reduced<float>(DType::f32, 1 << 20);
}

TEST(Communicator, GathersPartsOfAnySize) {
  const int size = world().size(), rank = world().rank();
  for (const bool in_place : {false, true}) {
    std::vector<int64_t> bytes;
    for (int r = 0; r < size; ++r) bytes.push_back(r == 1 ? 0 : 3 + 1000 * r);
    const int64_t total = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
    const int64_t before = std::accumulate(bytes.begin(), bytes.begin() + rank, int64_t{0});
    std::vector<char> own(static_cast<size_t>(bytes[static_cast<size_t>(rank)]),
                          static_cast<char>('a' + rank));
    std::vector<char> all(static_cast<size_t>(total), '?');
    if (in_place) std::copy(own.begin(), own.end(), all.begin() + before);
    world().all_gather(in_place ? all.data() + before : own.data(), all.data(), bytes);
    std::string expected;
    for (int r = 0; r < size; ++r)
      expected.append(static_cast<size_t>(bytes[static_cast<size_t>(r)]), static_cast<char>('a' + r));
    EXPECT_EQ(std::string(all.begin(), all.end()), expected);
  }
  EXPECT_THROW(world().all_gather(nullptr, nullptr, {}), std::invalid_argument);
}

TEST(Communicator, BroadcastsFromAnyRank) {
  for (int root = 0; root < world().size(); ++root) {
    std::vector<int> data(5000, world().rank());
    world().broadcast(data.data(), static_cast<int64_t>(data.size() * sizeof(int)), root);
    EXPECT_EQ(data, std::vector<int>(5000, root));
    EXPECT_EQ(world().broadcast_text(world().rank() == root ? "héllo" : "other, longer text", root), "héllo");
    EXPECT_EQ(world().broadcast_text(world().rank() == root ? "" : "x", root), "");
  }
}

TEST(Communicator, ExchangesMessagesOfAnySize) {
  const int size = world().size(), rank = world().rank();
  const auto message = [](int from, int to) {
    return Message(static_cast<size_t>(from == to ? 17 : (from + 1) * 100'000 * to),
                   static_cast<std::byte>(16 * from + to));
  };
  Messages send;
  for (int to = 0; to < size; ++to) send.push_back(message(rank, to));
  const auto received = world().all_to_all(send);
  ASSERT_EQ(static_cast<int>(received.size()), size);
  for (int from = 0; from < size; ++from)
    EXPECT_EQ(received[static_cast<size_t>(from)], message(from, rank)) << from;
  EXPECT_THROW(world().all_to_all(Messages(static_cast<size_t>(size) + 1)), std::invalid_argument);
}

TEST(Communicator, ChunksCoverLongTransfers) {
  std::vector<std::pair<int64_t, int>> seen;
  const auto note = [&](int64_t begin, int count) { seen.emplace_back(begin, count); };
  for_each_chunk(0, note);
  EXPECT_TRUE(seen.empty());
  for_each_chunk((int64_t{5} << 30) + 1, note);
  ASSERT_EQ(seen.size(), 6u);
  EXPECT_EQ(seen[5], (std::pair<int64_t, int>{int64_t{5} << 30, 1}));
  for (size_t i = 0; i < 5; ++i)
    EXPECT_EQ(seen[i], (std::pair<int64_t, int>{static_cast<int64_t>(i) << 30, 1 << 30}));
}

TEST(Communicator, AgreesOnTheFirstFailure) {
  EXPECT_TRUE(world().agree("").ok);
  for (int failing = 0; failing < world().size(); ++failing) {
    const Agreement agreement =
        world().agree(world().rank() >= failing ? "wrong on " + std::to_string(world().rank()) : "");
    EXPECT_FALSE(agreement.ok);
    EXPECT_EQ(agreement.rank, failing);
    EXPECT_EQ(agreement.message, "wrong on " + std::to_string(failing));
  }
}

TEST(Communicator, OneRanksExceptionIsEveryones) {
  EXPECT_NO_THROW(together(world(), [] {}));
  const int last = world().size() - 1;
  for (const bool nested : {false, true}) {
    std::string what;
    try {
      together(world(), [&] {
        // The last rank fails before the others' nested agreement.
        if (world().rank() == last) throw std::runtime_error("no such file");
        if (nested) together(world(), [] {});
      });
    } catch (const AgreedError& error) {
      what = error.what();
    }
    EXPECT_NE(what.find("no such file"), std::string::npos);
    if (last > 0) {
      EXPECT_NE(what.find("rank " + std::to_string(last)), std::string::npos) << what;
    }
    EXPECT_EQ(world().max(1), 1) << "still in step";
  }
}

TEST(Communicator, SubsetsAreTheFirstRanks) {
  for (int round = 0; round < 2; ++round) {
    for (int ranks = 1; ranks <= world().size(); ++ranks) {
      const auto part = world().subset(ranks);
      ASSERT_EQ(part != nullptr, world().rank() < ranks);
      if (!part) continue;
      EXPECT_EQ(part->size(), ranks);
      EXPECT_EQ(part->rank(), world().rank());
      EXPECT_EQ(part->sum(1), ranks);
      part->start_together();
      const auto inner = part->subset(1);
      ASSERT_EQ(inner != nullptr, part->rank() == 0);
      if (inner) {
        EXPECT_EQ(inner->sum(5), 5);
      }
    }
  }
  EXPECT_THROW(world().subset(0), std::invalid_argument);
  EXPECT_THROW(world().subset(world().size() + 1), std::invalid_argument);
}

TEST(Communicator, RestWaitsForTheLastWithoutACore) {
  const bool late = world().rank() == world().size() - 1;
  const double begin = now_seconds();
  const std::clock_t cpu = std::clock();
  if (late) std::this_thread::sleep_for(std::chrono::milliseconds(150));
  world().rest();
  EXPECT_GE(now_seconds() - begin, late || world().size() > 1 ? 0.1 : 0.0);
  EXPECT_LT(static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC, 0.1);
}

// Nobody leaves before the last has come; how near together they leave depends on the machine's load.
void expect_start_waits_for_all() {
  for (int round = 0; round < 200; ++round) world().start_together();
  for (int late = 0; late < world().size(); ++late) {
    if (world().rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    const double came = now_seconds();
    world().start_together();
    const double left = now_seconds();
    double last_came = came;
    world().all_reduce(&came, &last_came, 1, DType::f64, ReduceOp::max);
    EXPECT_GE(left, last_came) << "one node's processes share a clock";
  }
}

TEST(Communicator, StartsTogetherThroughSharedMemory) {
  expect_start_waits_for_all();
}

TEST(Communicator, StartsTogetherByTheClock) {
  ASSERT_EQ(setenv("LAMINA_FORCE_CLOCK_START", "1", 1), 0);
  expect_start_waits_for_all();
  // Long enough for the offsets to be measured anew.
  std::this_thread::sleep_for(std::chrono::milliseconds(2100));
  expect_start_waits_for_all();
  unsetenv("LAMINA_FORCE_CLOCK_START");
  expect_start_waits_for_all();
}

TEST(Launcher, SeveralProcessesThatEachBelieveToBeAloneAreRefused) {
  EXPECT_TRUE(launch_mismatch({1, ""}, 1, "").empty());
  EXPECT_TRUE(launch_mismatch({4, "PMI_SIZE"}, 4, "Open MPI").empty());
  const std::string without = launch_mismatch({4, "PMI_SIZE"}, 1, "");
  EXPECT_NE(without.find("PMI_SIZE=4"), std::string::npos);
  EXPECT_NE(without.find("LAMINA_MPI=ON"), std::string::npos);
  EXPECT_NE(launch_mismatch({4, "SLURM_STEP_NUM_TASKS"}, 1, "Open MPI v4").find("--mpi=pmix"),
            std::string::npos);
}

TEST(Launcher, ReadsTheInnermostLaunchersVariable) {
  const char* names[] = {"OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
  std::vector<std::pair<const char*, std::string>> saved;
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) saved.emplace_back(name, value);
    unsetenv(name);
  }
  EXPECT_EQ(launcher_claim().ranks, 1);
  setenv("SLURM_STEP_NUM_TASKS", "8", 1);
  EXPECT_EQ(launcher_claim().ranks, 8);
  setenv("PMI_SIZE", "3", 1);
  EXPECT_EQ(launcher_claim().ranks, 3);
  EXPECT_EQ(launcher_claim().variable, "PMI_SIZE");
  setenv("OMPI_COMM_WORLD_SIZE", "many", 1);
  EXPECT_EQ(launcher_claim().ranks, 3);
  for (const char* name : names) unsetenv(name);
  for (const auto& [name, value] : saved) setenv(name, value.c_str(), 1);
}

}  // namespace
}  // namespace lamina

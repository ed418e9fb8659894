// The published banks of launches (results/*/gate-bank), judged again: a change to the statistics shows in
// what gates of real launches call and find.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "bench/compare/selftest.hpp"
#include "kernels/json.hpp"

namespace lamina::compare {
namespace {

std::string folder_of(const std::string& machine) {
  return LAMINA_ROOT "/results/" + machine + "/gate-bank/";
}

struct Bank {
  Side base{"base", {}}, next{"new", {}}, slow{"slow", {}};
};

// times.csv: pair, side, started, case, latency_us_p50; launches in the order of pairs.
Bank read_bank(const std::string& machine) {
  Bank bank;
  std::map<std::string, Side*> sides = {{"base", &bank.base}, {"new", &bank.next}, {"slow", &bank.slow}};
  std::ifstream file(folder_of(machine) + "times.csv");
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream cells(line);
    std::string pair, side, started, name, us;
    for (std::string* cell : {&pair, &side, &started, &name, &us}) std::getline(cells, *cell, ',');
    std::vector<Launch>& launches = sides.at(side)->launches;
    if (launches.size() < std::stoul(pair)) {
      Launch& launch = launches.emplace_back();
      launch.name = launch.run_id = side + pair;
      launch.started = started;
    }
    LaunchRow row;
    row.status = "ok";
    row.time_us = std::stod(us);
    row.kernel = name.find("cpu-native") != std::string::npos ? "native" : "openblas";
    launches.back().rows[name] = row;
    launches.back().cases.push_back(name);
  }
  return bank;
}

// Judges a bank as `lamina selftest` did, and holds what it says to what was published.
std::vector<Rate> judge_again(const std::string& machine) {
  const Bank bank = read_bank(machine);
  EXPECT_EQ(bank.base.launches.size(), 90u);
  EXPECT_TRUE(interleaved(bank.base, bank.next));
  std::vector<Rate> rates = rates_of(bank.base, bank.next, {}, &bank.slow);
  EXPECT_EQ(selftest_text(rates, 90, {}, slowdowns(bank.base, bank.slow)),
            read_text_file(folder_of(machine) + "selftest.md"));
  for (const Rate& rate : rates) {
    EXPECT_EQ(rate.apart_false_rows, 0) << rate.pairs;
    EXPECT_LE(rate.false_rows * 1000, rate.rows) << rate.pairs;
  }
  return rates;
}

Rate of_pairs(const std::vector<Rate>& rates, int64_t pairs) {
  return *std::find_if(rates.begin(), rates.end(), [&](const Rate& rate) { return rate.pairs == pairs; });
}

// What docs/regression.md says of each, in case both files are written anew.
TEST(GateBank, OfANoisyMachineIsJudgedAsPublished) {
  const std::vector<Rate> rates = judge_again("amd-epyc-zen4-2-cores");
  const auto of = [&](int64_t pairs) { return of_pairs(rates, pairs); };
  EXPECT_EQ(of(3).apart_gates, 30);
  EXPECT_EQ(of(3).apart_rows, 300);
  EXPECT_GE(of(15).found[3], 0.6) << "+5 % by 15 pairs";
  EXPECT_GE(of(30).found[3], 0.95) << "+5 % by 30 pairs";
  EXPECT_GE(of(15).found[4], 0.95) << "+10 % by 15 pairs";
  EXPECT_LE(of(30).found[0], 0.02) << "+1 % is under the floor";
}

TEST(GateBank, OfAnIdleMachineIsJudgedAsPublished) {
  const std::vector<Rate> rates = judge_again("intel-amx-2-cores");
  const auto of = [&](int64_t pairs) { return of_pairs(rates, pairs); };
  EXPECT_GE(of(15).found[3], 0.6) << "+5 % by 15 pairs";
  EXPECT_GE(of(30).found[3], 0.85) << "+5 % by 30 pairs";
  EXPECT_GE(of(15).found[4], 0.9) << "+10 % by 15 pairs";
  EXPECT_LE(of(30).found[0], 0.02) << "+1 % is under the floor";
  EXPECT_EQ(of(30).slow_apart, 24);
  EXPECT_GE(of(30).slow_apart_found, 16) << "a build that is slower by 5 %";
}

}  // namespace
}  // namespace lamina::compare

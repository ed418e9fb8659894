// The published banks of launches (results/*/gate-bank), judged again: a change to the statistics shows in
// what gates of real launches call and find.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
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

// times.csv: pair, side, started, case and the columns after them; launches in the order of pairs. The older
// bank has no cycles, and one slower build.
Bank read_bank(const std::string& machine) {
  Bank bank;
  std::ifstream file(folder_of(machine) + "times.csv");
  std::string line;
  std::getline(file, line);
  std::vector<std::string> names;
  std::istringstream head(line);
  for (std::string name; std::getline(head, name, ',');) names.push_back(name);
  while (std::getline(file, line)) {
    std::map<std::string, std::string> cells;
    std::istringstream rest(line);
    for (const std::string& name : names) std::getline(rest, cells[name], ',');
    const auto number = [&](const char* name) { return cells.contains(name) ? std::stod(cells[name]) : 0; };
    const std::string side = cells["side"];
    const size_t build = side.starts_with("slow-") ? std::stoul(side.substr(5)) : 1;
    if (side.starts_with("slow")) bank.slow.resize(std::max(bank.slow.size(), build));
    Side& to = side == "base" ? bank.base : side == "new" ? bank.next : bank.slow[build - 1];
    if (to.launches.size() < std::stoul(cells["pair"])) {
      Launch& launch = to.launches.emplace_back();
      launch.name = launch.run_id = side + cells["pair"];
      launch.started = cells["started"];
    }
    const std::string name = cells["case"];
    LaunchRow row;
    row.status = "ok";
    row.time_us = number("latency_us_p50");
    row.cycles = number("cycles_p50");
    row.clock_mhz = number("core_clock_mhz");
    row.kernel = cells.contains("kernel")                       ? cells["kernel"]
                 : name.find("cpu-native") != std::string::npos ? "native"
                                                                : "openblas";
    to.launches.back().rows[name] = row;
    to.launches.back().cases.push_back(name);
  }
  return bank;
}

// Judges a bank as `lamina selftest` did, and holds what it says to what was published.
std::vector<Rate> judge_again(const std::string& machine) {
  const Bank bank = read_bank(machine);
  EXPECT_EQ(bank.base.launches.size(), 90u);
  EXPECT_TRUE(interleaved(bank.base, bank.next));
  std::vector<Rate> rates = rates_of(bank, {});
  if (std::getenv("LAMINA_UPDATE_GOLDEN") != nullptr)
    std::ofstream(folder_of(machine) + "selftest.md") << selftest_text(bank, rates, {});
  EXPECT_EQ(selftest_text(bank, rates, {}), read_text_file(folder_of(machine) + "selftest.md"));
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
  EXPECT_EQ(enough_pairs(rates), 15);
  EXPECT_EQ(of(3).apart_gates, 30);
  EXPECT_EQ(of(3).apart_rows, 300);
  EXPECT_GE(of(15).found[3], 0.95) << "+5 % by 15 pairs";
  EXPECT_GE(of(15).found[2], 0.9) << "+3 %";
  EXPECT_LE(of(30).found[0], 0.02) << "+1 % is under the floor";
  ASSERT_EQ(of(15).slow.size(), 5u) << "builds slower by 1, 2, 3, 5 and 10 %";
  EXPECT_EQ(of(15).slow[3].apart, 6 * 8);
  EXPECT_EQ(of(15).slow[3].apart_found, 6 * 8) << "5 %";
  for (const Rate& rate : rates)
    for (const SlowRate& slow : rate.slow) EXPECT_EQ(slow.others_called, 0) << rate.pairs;
}

}  // namespace
}  // namespace lamina::compare

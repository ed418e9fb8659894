// Lines through times of collectives.
#include "bench/network.hpp"

#include <gtest/gtest.h>

namespace lamina {
namespace {

TEST(Network, FindsTheLine) {
  std::vector<std::pair<double, double>> points;
  for (double bytes = 8; bytes < 1e8; bytes *= 4) points.emplace_back(bytes, 1.5 + bytes / 8e3);
  const auto line = fit_line(points);
  ASSERT_TRUE(line);
  EXPECT_NEAR(line->first, 1.5, 1e-6);
  EXPECT_NEAR(line->second, 8, 1e-6);
}

TEST(Network, NeedsTwoSizes) {
  EXPECT_FALSE(fit_line({}));
  EXPECT_FALSE(fit_line({{8, 1}}));
  EXPECT_FALSE(fit_line({{8, 1}, {8, 2}}));
  EXPECT_FALSE(fit_line({{8, 2}, {80, 1}}));  // faster the larger
}

TEST(Network, HasNoNegativeLatency) {
  const auto line = fit_line({{10, 1}, {100, 20}, {1000, 300}});
  ASSERT_TRUE(line);
  EXPECT_GE(line->first, 0);
  EXPECT_GT(line->second, 0);
}

Record row(const char* communicator, int64_t bytes, double us) {
  Record record("collective");
  record.set("workload", std::string("collective"));
  record.set("status", std::string("ok"));
  record.set("collective", std::string("all_reduce"));
  record.set("communicator", std::string(communicator));
  record.set("device", std::string("cpu"));
  record.set("ranks", int64_t{2});
  record.set("message_bytes", bytes);
  record.set("latency_us_p50", us);
  return record;
}

// Calls in graphs cost less than others, and numbers of two bytes other than those of four: each has its
// line.
TEST(Network, KeepsWaysOfCallingApart) {
  std::vector<Record> rows;
  for (const bool graph : {true, false})
    for (const bool in_place : {true, false})
      for (const char* dtype : {"f32", "bf16"})
        for (const int64_t bytes : {8, 80'000}) {
          rows.push_back(row("nccl", bytes, (graph ? 2 : 9) + static_cast<double>(bytes) / 8e3));
          rows.back().set("graph", graph);
          rows.back().set("in_place", in_place);
          rows.back().set("dtype", std::string(dtype));
        }
  const auto lines = fit_networks(rows);
  ASSERT_EQ(lines.size(), 8u);
  for (const NetworkLine& line : lines) EXPECT_NEAR(line.alpha_us, line.graph ? 2 : 9, 0.01) << line.dtype;
  for (const Record& each : rows) EXPECT_NEAR(each.number("limit_fraction"), 1, 1e-6);
}

TEST(Network, TellsRowsTheirShareOfIt) {
  std::vector<Record> rows = {row("mpi", 8, 2), row("mpi", 80'000, 12), row("mpi", 800'000, 102),
                              row("mpi-shm", 8, 1), row("mpi-shm", 80'000, 5)};
  rows.push_back(row("mpi", 8'000, 1));
  rows.back().set("payload", std::string("int8"));
  rows.push_back(row("mpi", 8'000, 1));
  rows.back().set("status", std::string("invalid"));
  const auto lines = fit_networks(rows);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].communicator, "mpi");
  EXPECT_EQ(lines[0].points, 3);
  EXPECT_NEAR(lines[0].alpha_us, 2, 0.01);
  EXPECT_NEAR(lines[0].beta_gb_per_s, 8, 0.01);
  EXPECT_EQ(rows[0].text("limit_kind"), "network");
  EXPECT_NEAR(rows[0].number("limit_fraction"), 1, 0.01);
  EXPECT_EQ(rows[5].text("limit_kind"), "");
  EXPECT_EQ(rows[6].text("limit_kind"), "");
}

TEST(Network, SaysFromWhichSizeCodesWin) {
  // µs by size, plain and in codes: they win once by chance, then from 4096 on.
  const int64_t sizes[] = {256, 512, 1024, 4096, 16384};
  const double plain[] = {2, 3, 5, 20, 90}, coded[] = {1.9, 4, 5, 15, 30};
  std::vector<Record> rows;
  const auto add = [&](int64_t bytes, double us, const char* payload, bool in_place) {
    rows.push_back(row("nccl", bytes, us));
    rows.back().set("in_place", in_place);
    if (*payload != '\0') rows.back().set("payload", std::string(payload));
  };
  for (size_t i = 0; i < std::size(sizes); ++i) {
    add(sizes[i], plain[i], "", false);
    add(sizes[i], coded[i], "int8", false);
    add(sizes[i], 2 * plain[i], "int4", false);
    add(sizes[i], coded[i], "int8", true);  // with nothing beside it
  }
  rows.push_back(row("nccl", 65536, 500));
  add(65536, 100, "int8", false);
  rows.back().set("status", std::string("timeout"));
  find_payload_wins(rows);
  for (const Record& one : rows) {
    const bool wins = one.text("payload") == "int8" && !one.flag("in_place") && one.text("status") == "ok";
    EXPECT_EQ(one.integer("payload_wins_from_bytes"), wins ? 4096 : 0) << one.text("payload");
  }
}

}  // namespace
}  // namespace lamina

#include "bench/peer_rows.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace lamina {
namespace {

Record row(const std::string& method, const std::string& matrix, int64_t ranks, int64_t threads, double us,
           const std::string& scaling = "strong") {
  Record record("svd");
  const std::string name = "svd/" + matrix + "/r8/" + method + "/rows/" + scaling + "/p" +
                           std::to_string(ranks) + "t" + std::to_string(threads);
  record.set("case", name);
  record.set("launch_id", std::string("one"));
  record.set("in_features", int64_t{100});
  record.set("out_features", scaling == "weak" ? 50 * ranks : int64_t{50});
  record.set("ranks", ranks);
  record.set("threads", threads);
  record.set("status", std::string("ok"));
  record.set("svd_method", method);
  record.set("svd_scaling", scaling);
  record.set("latency_us_p50", us);
  return record;
}

TEST(CompareRows, AgainstTheFastestPeersOfTheSameMatrix) {
  std::vector<Record> records = {
      row("gram", "100x50", 2, 1, 10),           row("lapack", "100x50", 1, 1, 90),
      row("lapack", "100x50", 1, 2, 60),         row("scalapack", "100x50", 1, 1, 700),
      row("scalapack", "100x50", 2, 1, 400),     row("lapack", "100x50-d2", 1, 2, 1),
      row("randomized", "llama/o_proj", 2, 1, 5)};
  compare_rows(records);
  EXPECT_DOUBLE_EQ(records[0].number("speedup_vs_lapack"), 6);
  EXPECT_DOUBLE_EQ(records[0].number("speedup_vs_scalapack"), 40);
  EXPECT_DOUBLE_EQ(records[1].number("speedup_vs_lapack"), 60.0 / 90);
  EXPECT_DOUBLE_EQ(records[5].number("speedup_vs_lapack"), 1);
  for (const char* key : {"speedup_vs_lapack", "speedup_vs_scalapack", "scaling_efficiency"})
    EXPECT_TRUE(std::isnan(records[6].number(key))) << key;
}

TEST(CompareRows, EfficiencyIsAgainstTheSameCaseOnOneRank) {
  std::vector<Record> records = {
      row("gram", "100x50", 1, 1, 80),          row("gram", "100x50", 4, 1, 25),
      row("gram", "100x50", 4, 2, 20),          row("gram", "100x50", 1, 1, 80, "weak"),
      row("gram", "100x50", 4, 1, 100, "weak"), row("lapack", "100x50", 1, 1, 9)};
  compare_rows(records);
  EXPECT_DOUBLE_EQ(records[0].number("scaling_efficiency"), 1);
  EXPECT_DOUBLE_EQ(records[1].number("scaling_efficiency"), 0.8);
  EXPECT_TRUE(std::isnan(records[2].number("scaling_efficiency"))) << "other threads";
  EXPECT_DOUBLE_EQ(records[4].number("scaling_efficiency"), 0.8);
  EXPECT_TRUE(std::isnan(records[5].number("scaling_efficiency"))) << "a peer that knows no ranks";
}

TEST(CompareRows, WithinOneLaunchAndOkRowsOnly) {
  std::vector<Record> records = {row("gram", "100x50", 2, 1, 10), row("lapack", "100x50", 1, 2, 60),
                                 row("gram", "100x50", 1, 1, 15), row("scalapack", "100x50", 2, 1, 400)};
  records[1].set("launch_id", std::string("another"));
  records[2].set("launch_id", std::string("another"));
  records[3].set("status", std::string("invalid"));
  compare_rows(records);
  for (const char* key : {"speedup_vs_lapack", "speedup_vs_scalapack", "scaling_efficiency"})
    EXPECT_TRUE(std::isnan(records[0].number(key))) << key;
  EXPECT_TRUE(std::isnan(records[3].number("speedup_vs_scalapack")));
}

}  // namespace
}  // namespace lamina

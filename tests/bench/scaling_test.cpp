// The export over ranks: who is fastest, and what ranks are worth.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/sinks/sink.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;
using testing::Not;

Record row(const std::string& scheme, const std::string& shard, int64_t ranks, double us,
           int64_t tokens = 1) {
  Record record("layer");
  record.set("workload", std::string("layer"));
  record.set("case", scheme + shard + std::to_string(ranks));
  record.set("layer", std::string("o_proj"));
  record.set("in_features", int64_t{64});
  record.set("out_features", int64_t{64});
  record.set("tokens", tokens);
  record.set("scheme", scheme);
  record.set("shard", shard);
  record.set("ranks", ranks);
  record.set("threads", int64_t{1});
  record.set("status", std::string("ok"));
  record.set("latency_us_p50", us);
  return record;
}

std::string scaling(std::vector<Record> records) {
  return find_sink("scaling")->render({{"one", "host", "", 2, std::move(records)}});
}

// The cells of the line that holds all of these, "" where there is none.
std::string line(const std::string& text, const std::vector<std::string>& parts) {
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    const std::string one = text.substr(begin, end - begin);
    begin = end + 1;
    bool all = true;
    for (const std::string& part : parts) all = all && one.find(part) != std::string::npos;
    if (all) return one;
  }
  return "";
}

TEST(Scaling, NamesTheFastestForTokensAndRanks) {
  const std::string text =
      scaling({row("dense", "none", 1, 100), row("int4", "none", 1, 40), row("dense", "column", 2, 60),
               row("int4", "column", 2, 25), row("int4", "row", 2, 20), row("int4", "row", 2, 90, 64),
               row("dense", "row", 2, 80, 64), row("int4", "row", 8, 10)});
  const std::string fastest = text.substr(0, text.find("## Over ranks"));
  EXPECT_THAT(fastest, HasSubstr("### o_proj, K×N 64×64\n"));
  EXPECT_THAT(line(fastest, {"1×1"}), HasSubstr("dense none, 2.50×"));
  // The best of two ranks is 20 µs, against the best of one: 40 / (2·20).
  EXPECT_THAT(line(fastest, {"2×1", "int4"}), HasSubstr("100 %"));
  EXPECT_THAT(line(fastest, {"2×1", "int4"}), HasSubstr("int4 column, 1.25×"));
  EXPECT_THAT(line(fastest, {"8×1"}), HasSubstr("50 %"));
  const std::string many = line(fastest, {" 64 |", "2×1"});
  EXPECT_THAT(many, HasSubstr("| dense "));
  EXPECT_THAT(many, Not(HasSubstr("%")));  // nothing on one rank to hold it against
}

TEST(Scaling, HoldsEachSchemeAgainstItselfAlone) {
  const std::string text = scaling({row("dense", "none", 1, 100), row("dense", "column", 2, 60),
                                    row("dense", "column", 4, 40), row("int8", "column", 2, 30)});
  const std::string over = text.substr(text.find("## Over ranks"));
  EXPECT_THAT(line(over, {"2×1"}), HasSubstr("1.67×"));
  EXPECT_THAT(line(over, {"2×1"}), HasSubstr("83 %"));
  EXPECT_THAT(line(over, {"4×1"}), HasSubstr("62 %"));
  EXPECT_THAT(over, Not(HasSubstr("int8")));
}

TEST(Scaling, OfRecordedGpus) {
  std::string warning;
  const RunRows run = load_run(std::string(LAMINA_ROOT) + "/results/nvidia-h200-x2/llama3-70b-tp", &warning);
  const std::string text = find_sink("scaling")->render({run});
  EXPECT_THAT(text, HasSubstr("### llama-3-70b mlp, K×I×N 8192×28672×8192\n"));
  // From one token's rows of the table: int4 wins on one and two GPUs; at 2048 dense with no overlap.
  const std::string fastest = text.substr(0, text.find("## Over ranks"));
  EXPECT_THAT(line(fastest, {"|      1 ", "2×16"}), HasSubstr("int4-g128"));
  EXPECT_THAT(line(fastest, {"|      1 ", "2×16"}), HasSubstr("90 %"));
  EXPECT_THAT(line(fastest, {"|     64 ", "1×16"}), HasSubstr("dense-bf16"));
  EXPECT_THAT(line(fastest, {"|   2048 ", "2×16"}), HasSubstr("dense-bf16 column-row o2, 1.02×"));
  EXPECT_EQ(line(text, {"4×16"}), "");  // which were skipped
}

TEST(Scaling, SaysSoWithoutRows) {
  Record failed = row("dense", "none", 1, 1);
  failed.set("status", std::string("error"));
  EXPECT_THAT(scaling({failed}), HasSubstr("No rows"));
}

}  // namespace
}  // namespace lamina

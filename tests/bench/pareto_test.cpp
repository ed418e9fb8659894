// Which rows an export by Pareto fronts keeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/sinks/sink.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;
using testing::Not;

Record row(const std::string& scheme, int64_t bytes, double nmse, double us,
           const std::string& shard = "none") {
  Record record("layer");
  record.set("case", scheme + shard);
  record.set("layer", std::string("o_proj"));
  record.set("in_features", int64_t{64});
  record.set("out_features", int64_t{64});
  record.set("tokens", int64_t{1});
  record.set("scheme", scheme);
  record.set("shard", shard);
  record.set("status", std::string("ok"));
  record.set("weight_bytes", bytes);
  record.set("quality_nmse", nmse);
  record.set("latency_us_p50", us);
  return record;
}

std::string pareto(std::vector<Record> records) {
  return find_sink("pareto")->render({{"one", "host", "", 2, std::move(records)}});
}

TEST(Pareto, KeepsWhatNothingBeatsInSizeOrInTime) {
  const std::string text =
      pareto({row("dense", 4000, 0, 9), row("small", 500, 1e-2, 4), row("fast", 1000, 1e-3, 2),
              row("worse", 1000, 2e-3, 3), row("large", 2000, 1e-3, 1)});
  EXPECT_THAT(text, HasSubstr("| dense  |"));
  EXPECT_THAT(text, HasSubstr("| small  |"));
  EXPECT_THAT(text, HasSubstr("| fast   |"));
  EXPECT_THAT(text, HasSubstr("| large  |"));
  EXPECT_THAT(text, Not(HasSubstr("worse")));
  EXPECT_THAT(text, HasSubstr("Left out: 1 rows"));
  // By size, small first; the fast one is beaten in time, the large one in size.
  EXPECT_LT(text.find("small"), text.find("fast"));
  EXPECT_THAT(text.substr(text.find("| fast")), HasSubstr("| size "));
  EXPECT_THAT(text.substr(text.find("| large")), HasSubstr("| time "));
}

TEST(Pareto, KernelsOfOneSchemeCompareByTime) {
  const std::string text = pareto({row("slow", 1000, 1.0004e-3, 8), row("quick", 1000, 1.0001e-3, 3)});
  EXPECT_THAT(text, HasSubstr("quick"));
  EXPECT_THAT(text, Not(HasSubstr("slow")));
}

TEST(Pareto, ComparesOnlyWhatRunsAlike) {
  const std::string text = pareto({row("a", 1000, 1e-3, 2, "none"), row("b", 2000, 2e-3, 4, "column")});
  EXPECT_THAT(text, HasSubstr("| a "));
  EXPECT_THAT(text, HasSubstr("| b "));
}

TEST(Pareto, ComparesErrorsOfTheSameWeightsAndTokens) {
  Record first = row("a", 1000, 1e-3, 2), second = row("b", 2000, 2e-3, 4), third = row("c", 2000, 2e-3, 4);
  second.set("weights_source", std::string("model.safetensors"));
  third.set("quality_tokens", int64_t{512});
  const std::string text = pareto({first, second, third});
  for (const char* kept : {"| a ", "| b ", "| c "}) EXPECT_THAT(text, HasSubstr(kept));
}

TEST(Pareto, LeavesOutRowsWithoutErrorOrTime) {
  Record failed = row("failed", 1, 1e-9, 1);
  failed.set("status", std::string("invalid"));
  Record untimed = row("untimed", 1, 1e-9, 1);
  untimed.set("latency_us_p50", nullptr);
  EXPECT_THAT(pareto({failed, untimed}), HasSubstr("No rows"));
  const std::string text = pareto({failed, untimed, row("good", 1000, 1e-3, 2)});
  EXPECT_THAT(text, HasSubstr("good"));
  EXPECT_THAT(text, HasSubstr("2 without"));
}

}  // namespace
}  // namespace lamina

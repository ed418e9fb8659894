// The exports for trackers: what they keep, what they leave out, and what hostile names come to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "bench/sinks/sink.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;
using testing::Not;

Record row(const std::string& name, double p50) {
  Record record("layer");
  record.set("case", name);
  record.set("status", std::string("ok"));
  record.set("latency_us_p50", p50);
  record.set("latency_us_ci_low", p50 * 0.98);
  record.set("latency_us_ci_high", p50 * 1.04);
  record.set("samples_us", std::vector<double>{p50, p50 * 2});
  record.set("samples", int64_t{2});
  record.set("iterations_per_sample", int64_t{3});
  record.set("tokens_per_s", 1e6 / p50);
  record.set("quality_nmse", 0.25);
  return record;
}

Record failed(const std::string& status) {
  Record record = row("failed", 1);
  record.set("status", status);
  return record;
}

RunRows run_of(std::vector<Record> records, const std::string& name = "one") {
  return {name, "host", "2026-01-02T03:04:05Z", 2, std::move(records)};
}

nlohmann::json parsed(const Sink& sink, const std::vector<RunRows>& runs) {
  return nlohmann::json::parse(sink.render(runs));
}

const std::vector<Sink>& json_sinks() {
  static const std::vector<Sink> list = {google_benchmark_median_sink(), smaller_is_better_sink(),
                                         bigger_is_better_sink(), bencher_sink()};
  return list;
}

TEST(Trackers, RowsThatAreNotOkAreLeftOut) {
  std::vector<Record> records;
  for (const char* status : {"error", "invalid", "skipped", "timeout"}) records.push_back(failed(status));
  Record untimed = row("untimed", 1);
  untimed.set("latency_us_p50", nullptr);
  records.push_back(untimed);
  for (const Sink& sink : json_sinks())
    EXPECT_THAT(sink.render({run_of(records)}), Not(HasSubstr("ailed"))) << sink.name;
  EXPECT_EQ(fom_sink().render({run_of(records)}), "");
  EXPECT_EQ(smaller_is_better_sink().render({}), "[]\n");
  EXPECT_EQ(bencher_sink().render({}), "{}\n");
}

TEST(Trackers, NamesOfSeveralRunsDiffer) {
  const std::vector<RunRows> runs = {run_of({row("a", 10)}, "x"), run_of({row("a", 20)}, "y")};
  for (const Sink& sink : json_sinks()) {
    EXPECT_THAT(sink.render(runs), HasSubstr("\"x/a\"")) << sink.name;
    EXPECT_THAT(sink.render(runs), HasSubstr("\"y/a\"")) << sink.name;
  }
  EXPECT_THAT(fom_sink().render(runs), HasSubstr("\nFOM y/a latency_us_p50 20 us\n"));
}

TEST(Trackers, HostileNamesStayInTheirPlace) {
  const std::string name = "a \"b\" \\ <c>|\n\x1b[2J\xff";
  const std::vector<RunRows> runs = {run_of({row(name, 10)})};
  for (const Sink& sink : json_sinks()) {
    EXPECT_NO_THROW((void)parsed(sink, runs)) << sink.name;
    EXPECT_EQ(sink.render(runs).find('\x1b'), std::string::npos) << sink.name;
  }
  const std::string fom = fom_sink().render(runs);
  EXPECT_THAT(fom, testing::StartsWith("FOM a%20\"b\"%20"));
  EXPECT_THAT(fom, HasSubstr("\\x1b[2J\\xff latency_us_p50 10 us\nFOM "));
}

TEST(GoogleBenchmarkMedian, HasOneRowACase) {
  const auto rows =
      parsed(google_benchmark_median_sink(), {run_of({row("a", 10), row("b", 20)})})["benchmarks"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["name"], "b");
  EXPECT_EQ(rows[1]["run_type"], "iteration");
  EXPECT_EQ(rows[1]["repetitions"], 1);
  EXPECT_EQ(rows[1]["iterations"], 6);
  EXPECT_EQ(rows[1]["real_time"], 20);
  EXPECT_EQ(rows[1]["quality_nmse"], 0.25);
  EXPECT_NE(rows[0]["family_index"], rows[1]["family_index"]);
}

TEST(CustomSmallerIsBetter, HasMicrosecondsAndTheirRange) {
  const auto list = parsed(smaller_is_better_sink(), {run_of({row("a", 100)})});
  EXPECT_EQ(list, nlohmann::json::parse(
                      R"([{"name":"a","unit":"us","value":100.0,"range":"± 3","extra":"2 samples"}])"));
}

TEST(CustomSmallerIsBetter, NeedsNoInterval) {
  Record record = row("a", 100);
  record.set("latency_us_ci_low", nullptr);
  EXPECT_FALSE(parsed(smaller_is_better_sink(), {run_of({record})})[0].contains("range"));
}

TEST(CustomBiggerIsBetter, HasRates) {
  Record factorisation("svd");
  factorisation.set("case", std::string("svd"));
  factorisation.set("status", std::string("ok"));
  factorisation.set("latency_us_p50", 2e6);
  const auto list = parsed(bigger_is_better_sink(), {run_of({row("a", 100), factorisation, row("zero", 0)})});
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["unit"], "tokens/s");
  EXPECT_EQ(list[0]["value"], 1e4);
  EXPECT_EQ(list[0]["range"], "± 300");
  EXPECT_EQ(list[1]["unit"], "1/s");
  EXPECT_EQ(list[1]["value"], 0.5);
}

TEST(Bencher, HasMeasuresOfABenchmark) {
  const auto document = parsed(bencher_sink(), {run_of({row("a", 100)})});
  const auto& latency = document["a"]["latency"];
  EXPECT_DOUBLE_EQ(latency["value"], 1e5);
  EXPECT_DOUBLE_EQ(latency["lower_value"], 0.98e5);
  EXPECT_DOUBLE_EQ(latency["upper_value"], 1.04e5);
  EXPECT_DOUBLE_EQ(document["a"]["tokens-per-second"]["value"], 1e4);
  EXPECT_FALSE(document["a"].contains("svd-error"));
}

// Of a layer it is the factors', and a part of what its quality says.
TEST(Trackers, ErrorsOfFactorsAreOfFactorisationsAlone) {
  Record layer = row("a", 100), svd("svd");
  svd.set("case", std::string("b"));
  svd.set("status", std::string("ok"));
  svd.set("latency_us_p50", 1.0);
  for (Record* record : {&layer, &svd}) record->set("svd_error", 0.5);
  const auto document = parsed(bencher_sink(), {run_of({layer, svd})});
  EXPECT_FALSE(document["a"].contains("svd-error"));
  EXPECT_EQ(document["b"]["svd-error"]["value"], 0.5);
  EXPECT_THAT(fom_sink().render({run_of({layer})}), Not(HasSubstr("svd_error")));
  EXPECT_THAT(fom_sink().render({run_of({svd})}), HasSubstr("FOM b svd_error 0.5 1"));
}

TEST(Fom, HasOneFigureALine) {
  EXPECT_EQ(fom_sink().render({run_of({row("a", 12.5)})}),
            "FOM a latency_us_p50 12.5 us\nFOM a tokens_per_s 80000 tokens/s\nFOM a quality_nmse 0.25 1\n");
}

}  // namespace
}  // namespace lamina

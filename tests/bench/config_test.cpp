#include "bench/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lamina {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Config read(const std::string& text, Problems& problems, const std::vector<std::string>& overrides = {},
            bool many = false) {
  return read_config(text, overrides, many, problems);
}

// A config around the given experiments.
std::string with(const std::string& experiments, const std::string& more = "") {
  return R"({"name": "t")" + more + R"(, "experiments": )" + experiments + "}";
}

auto problem(const std::string& pointer, const std::string& message) {
  return AllOf(Field(&Problem::pointer, pointer), Field(&Problem::message, HasSubstr(message)));
}

std::vector<Problem> problems_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  Problems problems;
  (void)read(text, problems, overrides);
  return problems.items();
}

std::string value_of(const Params& params, const std::string& key) {
  for (const auto& entry : params.entries()) {
    if (entry.key == key) return describe_value(entry.value);
  }
  return "absent";
}

std::string pointer_of(const Params& params, const std::string& key) {
  for (const auto& entry : params.entries()) {
    if (entry.key == key) return entry.pointer;
  }
  return "absent";
}

TEST(Config, FirstKeyIsSlowestAndPlacesAreTheElements) {
  Problems problems;
  const Config config = read(with(R"([{"a": [1, 2], "b": "x", "c": [true, 0.5]}, {"a": 3}])"), problems);
  ASSERT_TRUE(problems.empty());
  ASSERT_THAT(config.cases, SizeIs(5));
  std::vector<std::string> seen;
  for (const CaseParams& c : config.cases)
    seen.push_back(value_of(*c.params, "a") + value_of(*c.params, "c"));
  EXPECT_THAT(seen, ElementsAre("1true", "10.5", "2true", "20.5", "3absent"));
  EXPECT_EQ(config.cases[2].experiment, 0);
  EXPECT_EQ(config.cases[4].experiment, 1);
  EXPECT_EQ(pointer_of(*config.cases[2].params, "a"), "/experiments/0/a/1");
  EXPECT_EQ(pointer_of(*config.cases[2].params, "b"), "/experiments/0/b");
  EXPECT_EQ(config.cases[4].params->pointer(), "/experiments/1");
}

TEST(Config, ObjectsAndTheirArraysAreAxes) {
  Problems problems;
  const Config config = read(
      with(R"([{"scheme": [{"type": "dense"}, {"type": "int4", "group": [32, 64]}], "tokens": [1, 2]}])"),
      problems);
  ASSERT_TRUE(problems.empty());
  std::vector<std::string> seen;
  for (const CaseParams& c : config.cases) {
    const auto scheme = c.params->object({"scheme", "", {}, 0, 0, {}});
    ASSERT_NE(scheme, nullptr);
    seen.push_back(value_of(*scheme, "type") + value_of(*scheme, "group") + "@" +
                   value_of(*c.params, "tokens") + pointer_of(*scheme, "group"));
  }
  EXPECT_THAT(seen, ElementsAre("\"dense\"absent@1absent", "\"dense\"absent@2absent",
                                "\"int4\"32@1/experiments/0/scheme/1/group/0",
                                "\"int4\"32@2/experiments/0/scheme/1/group/0",
                                "\"int4\"64@1/experiments/0/scheme/1/group/1",
                                "\"int4\"64@2/experiments/0/scheme/1/group/1"));
}

TEST(Config, CasesDoNotShareWhatWasRead) {
  Problems problems;
  const Config config =
      read(with(R"([{"scheme": {"type": "int4", "group": 64}, "tokens": [1, 2]}])"), problems);
  const KeySpec scheme{"scheme", "", {}, 0, 0, {}};
  config.cases[0].params->object(scheme)->mark_read("group");
  config.cases[1].params->object(scheme)->report_unread({});
  EXPECT_THAT(problems.items(), Contains(problem("/experiments/0/scheme/group", "unknown")));
}

TEST(Config, AFlatListOfTensorsIsOneValue) {
  Problems problems;
  const Config flat = read(with(R"([{"tensor": ["a", "b"]}])"), problems);
  ASSERT_THAT(flat.cases, SizeIs(1));
  EXPECT_THAT(flat.cases[0].params->strings({"tensor", "", {}, 0, 0, {}}), ElementsAre("a", "b"));
  const Config axis = read(with(R"([{"tensor": [["a", "b"], ["c"], "d"]}])"), problems);
  ASSERT_THAT(axis.cases, SizeIs(3));
  EXPECT_THAT(axis.cases[2].params->strings({"tensor", "", {}, 0, 0, {}}), ElementsAre("d"));
  EXPECT_EQ(pointer_of(*axis.cases[1].params, "tensor"), "/experiments/0/tensor/1");
  EXPECT_TRUE(problems.empty());
}

TEST(Config, ReadsMeasureAndIgnoresSchemaAndDescription) {
  Problems problems;
  const Config config = read(with("[{}]", R"(, "seed": 9007199254740991, "$schema": "s", "description": "d",
      "measure": {"precision": 0.5, "min_samples": 3, "max_seconds": 1, "timeout_seconds": 2.5, "cache": "hot"})"),
                             problems);
  EXPECT_THAT(problems.items(), IsEmpty());
  EXPECT_EQ(config.seed, 9007199254740991u);
  EXPECT_EQ(config.measure.precision, 0.5);
  EXPECT_EQ(config.measure.min_samples, 3);
  EXPECT_EQ(config.measure.max_seconds, 1);
  EXPECT_EQ(config.measure.timeout_seconds, 2.5);
  EXPECT_EQ(config.measure.cache, "hot");
}

TEST(Config, FallbacksAreTheStructsDefaults) {
  Problems problems;
  const Config config = read(with("[{}]", R"(, "measure": {})"), problems);
  const MeasureOptions defaults;
  EXPECT_EQ(config.measure.precision, defaults.precision);
  EXPECT_EQ(config.measure.min_samples, defaults.min_samples);
  EXPECT_EQ(config.measure.max_seconds, defaults.max_seconds);
  EXPECT_EQ(config.measure.timeout_seconds, defaults.timeout_seconds);
  EXPECT_EQ(config.measure.cache, defaults.cache);
  EXPECT_EQ(config.seed, Config().seed);
}

TEST(Config, DigestFollowsTheMeaning) {
  Problems problems;
  const std::string spaced = R"({ "name" : "t",  "experiments":[ {} ] })";
  const Config a = read(with("[{}]"), problems), b = read(spaced, problems);
  const Config c = read(with("[{}]"), problems, {"seed=2"});
  EXPECT_EQ(a.digest, b.digest);
  EXPECT_NE(a.digest, c.digest);
  EXPECT_THAT(a.digest, testing::MatchesRegex("[0-9a-f]{16}"));
}

struct BadConfig {
  const char* what;
  std::string text;
  std::string pointer;
  std::string message;
};
void PrintTo(const BadConfig& bad, std::ostream* out) {
  *out << bad.what;
}

class BadConfigs : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigs, AreReportedWithTheirPlace) {
  EXPECT_THAT(problems_of(GetParam().text), Contains(problem(GetParam().pointer, GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    Table, BadConfigs,
    testing::Values(
        BadConfig{"not JSON", "{", "", ""}, BadConfig{"an array", "[]", "", "expected an object"},
        BadConfig{"a number", "7", "", "found 7"},
        BadConfig{"no name", R"({"experiments": [{}]})", "", "name"},
        BadConfig{"no experiments", R"({"name": "t"})", "", "experiments"},
        BadConfig{"empty name", R"({"name": "", "experiments": [{}]})", "/name", "expected 1 to"},
        BadConfig{"name with a slash", R"({"name": "../x", "experiments": [{}]})", "/name", "letters"},
        BadConfig{"hidden name", R"({"name": ".x", "experiments": [{}]})", "/name", "letter or"},
        BadConfig{"name as number", R"({"name": 3, "experiments": [{}]})", "/name", "found 3"},
        BadConfig{"name as array", R"({"name": ["a"], "experiments": [{}]})", "/name", "found an array"},
        BadConfig{"name as null", R"({"name": null, "experiments": [{}]})", "/name", "found null"},
        BadConfig{"negative seed", with("[{}]", R"(, "seed": -1)"), "/seed", "-1"},
        BadConfig{"fractional seed", with("[{}]", R"(, "seed": 1.5)"), "/seed", "1.5"},
        BadConfig{"huge seed", with("[{}]", R"(, "seed": 9223372036854775807)"), "/seed",
                  "9223372036854775807"},
        BadConfig{"experiments as object", with("{}"), "/experiments", "found an object"},
        BadConfig{"no experiment", with("[]"), "/experiments", "an empty array"},
        BadConfig{"experiment as number", with("[{}, 3]"), "/experiments/1", "found 3"},
        BadConfig{"experiment as array", with("[[]]"), "/experiments/0", "found an empty array"},
        BadConfig{"empty axis", with(R"([{"tokens": []}])"), "/experiments/0/tokens", "at least one value"},
        BadConfig{"empty tensor list", with(R"([{"tensor": [[]]}])"), "/experiments/0/tensor/0", "array"},
        BadConfig{"nested axis", with(R"([{"tokens": [[1]]}])"), "/experiments/0/tokens/0",
                  "inside an array"},
        BadConfig{"null", with(R"([{"scheme": {"group": null}}])"), "/experiments/0/scheme/group",
                  "found null"},
        BadConfig{"null in an axis", with(R"([{"tokens": [1, null]}])"), "/experiments/0/tokens/1",
                  "found null"},
        BadConfig{"unknown key", with("[{}]", R"(, "sed": 1)"), "/sed", "seed"},
        BadConfig{"unknown structured key", R"({"name": "t", "experiment": [{}], "experiments": [{}]})",
                  "/experiment", "experiments"},
        BadConfig{"unknown measure key", with("[{}]", R"(, "measure": {"max_second": 1})"),
                  "/measure/max_second", "max_seconds"},
        BadConfig{"measure as array", with("[{}]", R"(, "measure": [1])"), "/measure", "found an array"},
        BadConfig{"swept measure", with("[{}]", R"(, "measure": {"precision": [0.1, 0.2]})"),
                  "/measure/precision", "only the keys of experiments"},
        BadConfig{"precision of zero", with("[{}]", R"(, "measure": {"precision": 0})"), "/measure/precision",
                  "0"},
        BadConfig{"no samples", with("[{}]", R"(, "measure": {"min_samples": 0})"), "/measure/min_samples",
                  "0"},
        BadConfig{"endless", with("[{}]", R"(, "measure": {"max_seconds": 1e9})"), "/measure/max_seconds",
                  "86400"},
        BadConfig{"unknown cache", with("[{}]", R"(, "measure": {"cache": "cole"})"), "/measure/cache",
                  "cold"},
        BadConfig{"pointer needs escapes", with(R"([{"a/b~c": []}])"), "/experiments/0/a~1b~0c", "array"}));

TEST(Config, ReportsEveryProblemAtOnce) {
  const auto problems = problems_of(R"({"name": "a b", "seed": -1, "measure": {"precision": 9, "x": 1},
      "experiments": [{"tokens": []}, {"layer": null}]})");
  EXPECT_THAT(problems, Contains(problem("/name", "")));
  EXPECT_THAT(problems, Contains(problem("/seed", "")));
  EXPECT_THAT(problems, Contains(problem("/measure/precision", "")));
  EXPECT_THAT(problems, Contains(problem("/measure/x", "")));
  EXPECT_THAT(problems, Contains(problem("/experiments/0/tokens", "")));
  EXPECT_THAT(problems, Contains(problem("/experiments/1/layer", "")));
  EXPECT_THAT(problems, SizeIs(6));
}

// An array of `count` numbers.
std::string axis(int64_t count) {
  std::string text = "[0";
  for (int64_t i = 1; i < count; ++i) text += "," + std::to_string(i);
  return text + "]";
}

TEST(Config, TooManyCasesNeedYes) {
  const std::string text = with("[{\"a\": " + axis(400) + ", \"b\": " + axis(251) + "}]");
  EXPECT_THAT(problems_of(text), ElementsAre(problem("/experiments", "found 100400; pass --yes")));
  Problems problems;
  EXPECT_THAT(read(text, problems, {}, true).cases, SizeIs(100400));
  EXPECT_TRUE(problems.empty());
}

TEST(Config, CountsWithoutMakingThemAndWithoutOverflow) {
  std::string experiment = "[{";
  for (int i = 0; i < 12; ++i) experiment += (i ? ",\"k" : "\"k") + std::to_string(i) + "\": " + axis(100);
  experiment += "}]";
  Problems problems;
  EXPECT_THAT(read(with(experiment), problems, {}, true).cases, IsEmpty());
  EXPECT_THAT(problems.items(), ElementsAre(problem("/experiments", "found more than 9223372036854775807")));
}

TEST(Config, OverridesReachTheirPlace) {
  Problems problems;
  const Config config = read(with(R"([{"tokens": 1}, {"tokens": 2}])"), problems,
                             {"tokens=[1,64]", "experiments.1.tokens=3", "measure.max_seconds=0.5",
                              "kernel=native", "scheme.type=int8", "name=other", "model=\"7\""});
  ASSERT_THAT(problems.items(), IsEmpty());
  ASSERT_THAT(config.cases, SizeIs(3));
  EXPECT_EQ(value_of(*config.cases[1].params, "tokens"), "64");
  EXPECT_EQ(value_of(*config.cases[2].params, "tokens"), "3");
  EXPECT_EQ(value_of(*config.cases[0].params, "kernel"), "\"native\"");
  EXPECT_EQ(value_of(*config.cases[0].params, "model"), "\"7\"");
  EXPECT_EQ(config.measure.max_seconds, 0.5);
  EXPECT_EQ(config.name, "other");
  EXPECT_THAT(config.text, HasSubstr("\"int8\""));
}

TEST(Config, BadOverridesAreProblems) {
  const std::string text = with(R"([{"tokens": 1, "scheme": [{"type": "int8"}]}])");
  for (const char* override :
       {"tokens", "=3", "a..b=1", "tokens=", "tokens=[1,", "experiments.3.tokens=1", "experiments.x.tokens=1",
        "tokens.deeper=1", "scheme.group=64", "kernel=\xff"}) {
    EXPECT_THAT(problems_of(text, {override}), Contains(Field(&Problem::message, HasSubstr("--set"))))
        << override;
  }
  std::string deep = "a";
  for (int i = 0; i < 100000; ++i) deep += ".a";
  EXPECT_THAT(problems_of(text, {deep + "=1"}), SizeIs(1));
}

TEST(Config, EveryTopLevelKeyIsDeclaredWithHelp) {
  for (const auto* keys : {&config_keys(), &measure_keys()}) {
    for (const KeySpec& key : *keys) EXPECT_FALSE(key.help.empty()) << key.name;
  }
}

}  // namespace
}  // namespace lamina

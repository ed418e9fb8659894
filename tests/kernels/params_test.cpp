#include "kernels/params.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace lamina {
namespace {

const KeySpec kTokens{"tokens", "tokens per forward", nullptr, 1, 4096, {}, false};

struct ParamsTest : testing::Test {
  Problems problems;
  Params params{"/experiments/0", &problems};

  std::string only() const {
    if (problems.items().size() != 1) return "not one problem but " + std::to_string(problems.items().size());
    return problems.items()[0].pointer + ": " + problems.items()[0].message;
  }
};

TEST_F(ParamsTest, ReadsEachType) {
  auto inner = std::make_shared<Params>("/experiments/0/scheme", &problems);
  params.set("tokens", int64_t{16});
  params.set("ratio", 0.25);
  params.set("flag", true);
  params.set("cache", std::string("hot"));
  params.set("tensor", std::vector<std::string>{"a", "b"});
  params.set("scheme", inner);
  EXPECT_EQ(params.integer(kTokens), 16);
  EXPECT_EQ(params.number({"ratio", "", nullptr, 0, 1, {}, false}), 0.25);
  EXPECT_EQ(params.number({"tokens", "", nullptr, 0, 0, {}, false}), 16.0);
  EXPECT_TRUE(params.boolean({"flag", "", nullptr, 0, 0, {}, false}));
  EXPECT_EQ(params.string({"cache", "", nullptr, 0, 0, {"hot", "cold"}, false}), "hot");
  EXPECT_EQ(params.strings({"cache", "", nullptr, 0, 0, {}, false}), std::vector<std::string>{"hot"});
  EXPECT_EQ(params.strings({"tensor", "", nullptr, 0, 0, {}, false}), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(params.object({"scheme", "", nullptr, 0, 0, {}, false}), inner);
  params.report_unread({});
  EXPECT_TRUE(problems.empty()) << only();
}

TEST_F(ParamsTest, SaysWhatWasExpectedAndFound) {
  const std::pair<Value, std::string> cases[] = {{std::string("abc"), "\"abc\""},
                                                 {int64_t{0}, "0"},
                                                 {int64_t{-1}, "-1"},
                                                 {int64_t{4097}, "4097"},
                                                 {std::numeric_limits<int64_t>::max(), "9223372036854775807"},
                                                 {16.0, "16.0"},
                                                 {1e300, "1e+300"},
                                                 {true, "true"},
                                                 {nullptr, "null"},
                                                 {std::vector<std::string>{"a"}, "[\"a\"]"},
                                                 {std::make_shared<Params>("", nullptr), "an object"}};
  for (const auto& [value, found] : cases) {
    Problems some;
    Params one("/x", &some);
    one.set("tokens", value, "/x/tokens/2");
    EXPECT_EQ(one.integer(kTokens), 1);  // the range's minimum
    ASSERT_EQ(some.items().size(), 1u) << found;
    EXPECT_EQ(some.items()[0],
              (Problem{"/x/tokens/2", "expected an integer from 1 to 4096, found " + found}));
  }
}

TEST_F(ParamsTest, AMissingKeyIsAProblemOnlyWhenRequired) {
  EXPECT_EQ(params.integer({"seed", "", int64_t{7}, 0, 100, {}, false}), 7);
  EXPECT_EQ(params.string({"model", "", nullptr, 0, 0, {}, true}), "");
  EXPECT_EQ(params.object({"scheme", "", nullptr, 0, 0, {}, true}), nullptr);
  EXPECT_TRUE(problems.empty());
  params.integer(kTokens);
  EXPECT_EQ(only(), "/experiments/0: expected the key \"tokens\" (tokens per forward), found none");
}

TEST_F(ParamsTest, NumbersOutOfRangeFallBack) {
  params.set("precision", 2.0);
  EXPECT_EQ(params.number({"precision", "", 0.01, 0.001, 0.5, {}, false}), 0.01);
  EXPECT_EQ(only(), "/experiments/0/precision: expected a number from 0.001 to 0.5, found 2.0");
}

TEST_F(ParamsTest, ChoicesNameTheNearest) {
  params.set("shard", std::string("colum"));
  EXPECT_EQ(params.string({"shard", "", std::string("none"), 0, 0, {"none", "column", "row"}, false}),
            "none");
  EXPECT_EQ(
      only(),
      "/experiments/0/shard: expected one of \"none\", \"column\", \"row\", found \"colum\"; did you mean "
      "\"column\"?");
}

TEST_F(ParamsTest, UnreadKeysAreUnknown) {
  params.set("tokns", int64_t{1});
  params.set("zebra", int64_t{1});
  params.set("a/b~", int64_t{1});
  const KeySpec other{"model", "", nullptr, 0, 0, {}, true};
  params.report_unread({kTokens, other});
  ASSERT_EQ(problems.items().size(), 3u);
  EXPECT_EQ(problems.items()[0], (Problem{"/experiments/0/tokns", "unknown key; did you mean \"tokens\"?"}));
  EXPECT_EQ(problems.items()[1], (Problem{"/experiments/0/zebra", "unknown key; known keys: tokens, model"}));
  EXPECT_EQ(problems.items()[2].pointer, "/experiments/0/a~1b~0");
}

TEST_F(ParamsTest, AKnownKeyThatNothingReadHasNoEffect) {
  params.set("tokens", int64_t{1});
  params.report_unread({kTokens});
  EXPECT_EQ(only(), "/experiments/0/tokens: key has no effect here; remove it");
}

TEST_F(ParamsTest, SettingAKeyAgainReplacesIt) {
  params.set("tokens", int64_t{1});
  params.set("tokens", int64_t{2}, "/set");
  EXPECT_EQ(params.integer(kTokens), 2);
  ASSERT_EQ(params.entries().size(), 1u);
  EXPECT_EQ(params.entries()[0].pointer, "/set");
}

TEST_F(ParamsTest, TheSameProblemIsKeptOnce) {
  for (int i = 0; i < 3; ++i) problems.add("/a", "x");
  problems.add("/a", "y");
  problems.add("/b", "x");
  EXPECT_EQ(problems.items().size(), 3u);
}

TEST(DescribeValue, KeepsATerminalSafe) {
  EXPECT_EQ(describe_value(std::string("a\x1b[2J\n\"")), "\"a\\u001b[2J\\u000a\\\"\"");
  EXPECT_LT(describe_value(std::string(1000, 'x')).size(), 100u);
  EXPECT_EQ(describe_value(0.1), "0.1");
  EXPECT_EQ(describe_value(-2.0), "-2.0");
}

TEST(NearestName, FindsSlipsAndNothingElse) {
  const std::vector<std::string> known{"tokens", "max_seconds", "llama-3-8b", "int4"};
  EXPECT_EQ(nearest_name("token", known), "tokens");
  EXPECT_EQ(nearest_name("tokesn", known), "tokens");
  EXPECT_EQ(nearest_name("max-seconds", known), "max_seconds");
  EXPECT_EQ(nearest_name("LLaMA-3-8B", known), "llama-3-8b");
  EXPECT_EQ(nearest_name("int5", known), "int4");
  EXPECT_EQ(nearest_name("device", known), "");
  EXPECT_EQ(nearest_name("", known), "");
  EXPECT_EQ(nearest_name(std::string(100000, 'x'), known), "");
}

}  // namespace
}  // namespace lamina

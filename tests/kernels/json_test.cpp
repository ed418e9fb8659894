#include "kernels/json.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace lamina {
namespace {

std::string parse(std::string_view text) {
  Problems problems;
  const auto json = parse_strict_json(text, problems);
  std::string out = problems.empty() ? json.dump() : "";
  for (const Problem& problem : problems.items()) out += problem.pointer + ": " + problem.message + "\n";
  return out;
}

TEST(StrictJson, KeepsValuesAndTheirOrder) {
  EXPECT_EQ(parse(R"( {"b": [1, -2.5, true, null, "é\n"], "a": {}, "c": 1e300} )"),
            R"({"b":[1,-2.5,true,null,"é\n"],"a":{},"c":1e+300})");
  EXPECT_EQ(parse("-9223372036854775808"), "-9223372036854775808");
  EXPECT_EQ(parse("9223372036854775807"), "9223372036854775807");
}

TEST(StrictJson, ReportsEveryDuplicateKeyWithItsPlace) {
  EXPECT_EQ(parse(R"({"a":{"b":1,"b":2},"x":[{"y/z":1,"y/z":1}],"a":3})"),
            "/a/b: expected each key once, found a duplicate key\n"
            "/x/0/y~1z: expected each key once, found a duplicate key\n"
            "/a: expected each key once, found a duplicate key\n");
}

TEST(StrictJson, RefusesNumbersThatFitNoType) {
  EXPECT_EQ(parse(R"({"x":[1,9223372036854775808,18446744073709551616]})"),
            "/x/1: expected an integer within 64 bits (signed), found 9223372036854775808\n"
            "/x/2: expected an integer within 64 bits (signed), found 18446744073709551616\n");
  EXPECT_EQ(parse("[-9223372036854775809]"),
            "/0: expected an integer within 64 bits (signed), found -9223372036854775809\n");
  EXPECT_EQ(parse("[0, 1e999]"), "/1: expected a number that fits a double, found one that overflows\n");
  EXPECT_NE(parse("[NaN]"), "");
}

TEST(StrictJson, GivesLineAndColumnOfBadSyntax) {
  const std::string message = parse("{\n  \"a\": [1,\n   2],\n  \"b\": {\"c\": tru}\n}");
  EXPECT_EQ(message.rfind("/b: expected JSON, found an error at line 4, column ", 0), 0u) << message;
}

TEST(StrictJson, NamesATrailingComma) {
  EXPECT_NE(parse("{\"a\": 1,\n}").find("remove the trailing comma"), std::string::npos);
  EXPECT_NE(parse("[1, ]").find("remove the trailing comma"), std::string::npos);
  EXPECT_EQ(parse("[1, tru]").find("trailing comma"), std::string::npos);
}

TEST(StrictJson, RefusesWhatLenientParsersTake) {
  for (const char* text : {"", " \n", "{} x", "{}{}", "[1] // comment", "{'a':1}", "[01]", "[1.]", "\"a\tb\"",
                           "[", "\"\xff\"", "[\"\\ud800\"]"})
    EXPECT_NE(parse(text).find("expected"), std::string::npos) << text;
  EXPECT_EQ(parse("\xEF\xBB\xBF{}"),
            ": expected JSON in UTF-8 without a byte-order mark, found one; save the file without it\n");
}

TEST(StrictJson, StopsAt64Levels) {
  auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(parse(nested(64)), nested(64));
  EXPECT_NE(parse(nested(65)).find("at most 64 levels"), std::string::npos);
  EXPECT_NE(parse(std::string(5'000'000, '[')).find("at most 64 levels"), std::string::npos);
}

TEST(StrictJson, MessagesStayShortAndPrintable) {
  const std::string message = parse("[" + std::string(1'000'000, 'x') + "]");
  EXPECT_LT(message.size(), 400u);
  EXPECT_EQ(parse("[\"\x1b[2J").find('\x1b'), std::string::npos);
}

TEST(StrictJson, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += "\"key" + std::to_string(i) + "\":0,";
  text += "\"last\":1}";
  Problems problems;
  EXPECT_EQ(parse_strict_json(text, problems).size(), 100'001u);
  EXPECT_TRUE(problems.empty());
}

struct ReadTextFile : testing::Test {
  std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("lamina_json_test_" + std::to_string(::getpid()));
  void SetUp() override { std::filesystem::create_directories(folder); }
  void TearDown() override { std::filesystem::remove_all(folder); }

  std::string error(const std::filesystem::path& path, int64_t limit = 64 << 20) {
    try {
      read_text_file(path.string(), limit);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(ReadTextFile, ReadsRegularFilesWhole) {
  const std::string text = std::string(200'000, 'a') + '\0' + "end";
  std::ofstream(folder / "file", std::ios::binary) << text;
  EXPECT_EQ(read_text_file((folder / "file").string()), text);
  EXPECT_EQ(read_text_file((folder / "file").string(), 200'004), text);
  EXPECT_NE(error(folder / "file", 200'003).find("expected at most 200003 bytes"), std::string::npos);
}

TEST_F(ReadTextFile, RefusesAnythingElseWithoutHanging) {
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  EXPECT_NE(error(folder / "fifo").find("expected a regular file"), std::string::npos);
  EXPECT_NE(error(folder).find("found a folder"), std::string::npos);
  EXPECT_NE(error("/dev/zero").find("expected a regular file"), std::string::npos);
  EXPECT_NE(error(folder / "none").find((folder / "none").string()), std::string::npos);
}

}  // namespace
}  // namespace lamina

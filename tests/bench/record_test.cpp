#include "bench/record.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "bench/sinks/jsonl.hpp"

namespace lamina {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

Record sample() {
  Record record("layer");
  record.set("case", std::string("a \"quoted\" | case µ\n"));
  record.set("scheme", std::string("int4-g128"));
  record.set("scheme_group", int64_t{128});
  record.set("scheme_method", std::string("rtn"));
  record.set("tokens", std::numeric_limits<int64_t>::max());
  record.set("latency_us_p50", 0.1);
  record.set("latency_us_mean", 100.0);
  record.set("check_passed", true);
  record.set("samples_us", std::vector<double>{1.0, 2.5, 1e-300});
  record.set("warnings", std::vector<std::string>{});
  return record;
}

std::string line_with(const std::string& more) {
  return R"({"schema_version": 1, "workload": "layer")" + more + "}";
}

class TempFile {
 public:
  explicit TempFile(const std::string& text) {
    path_ = testing::TempDir() + "lamina-record-" +
            testing::UnitTest::GetInstance()->current_test_info()->name() + ".jsonl";
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }
  std::string text() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  std::string path_;
};

TEST(RecordKeys, AreNamedOnceAndExplained) {
  std::set<std::string> names;
  for (const RecordKey& key : record_keys()) {
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_EQ(find_record_key(key.name), &key);
    EXPECT_FALSE(key.name.starts_with("scheme_")) << "scheme_* is a scheme's own";
  }
  EXPECT_EQ(find_record_key("latency_us_p51"), nullptr);
}

TEST(RecordKeys, UnitsInNamesAreTheirUnits) {
  for (const RecordKey& key : record_keys()) {
    const bool micros = key.name.find("_us") != std::string::npos;
    EXPECT_EQ(micros, key.unit == Unit::microseconds) << key.name;
    EXPECT_EQ(key.name.ends_with("_bytes"), key.unit == Unit::bytes) << key.name;
    EXPECT_EQ(key.name.ends_with("_gb_per_s"), key.unit == Unit::gigabytes_per_s) << key.name;
  }
}

TEST(Record, StartsWithItsWorkloadsKeysNull) {
  const Record layer("layer"), collective("collective");
  const auto has = [](const Record& record, const std::string& key) {
    return std::any_of(record.values().begin(), record.values().end(),
                       [&](const auto& entry) { return entry.first == key; });
  };
  EXPECT_TRUE(has(layer, "tokens"));
  EXPECT_FALSE(has(layer, "busbw_gb_per_s"));
  EXPECT_TRUE(has(collective, "busbw_gb_per_s"));
  EXPECT_FALSE(has(collective, "tokens"));
  EXPECT_EQ(layer.text("workload"), "layer");
  EXPECT_EQ(layer.integer("schema_version"), kSchemaVersion);
  EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(layer.get("latency_us_p50")));
  EXPECT_TRUE(std::isnan(layer.number("latency_us_p50")));
}

TEST(Record, SchemeSettingsStandBehindTheScheme) {
  const Record record = sample();
  std::vector<std::string> keys;
  for (const auto& [key, value] : record.values()) keys.push_back(key);
  const auto scheme = std::find(keys.begin(), keys.end(), "scheme");
  ASSERT_NE(scheme, keys.end());
  EXPECT_EQ(scheme[1], "scheme_group");
  EXPECT_EQ(scheme[2], "scheme_method");
}

TEST(Record, RefusesAKeyThatIsNotInTheTable) {
  Record record("layer");
  EXPECT_THROW(record.set("latency_p50", 1.0), std::logic_error);
}

TEST(Record, KeepsFiniteNumbersOnly) {
  Record record("layer");
  record.set("latency_us_p50", std::numeric_limits<double>::infinity());
  record.set("gflops", std::nan(""));
  record.set("samples_us", std::vector<double>{1, std::nan("")});
  for (const char* key : {"latency_us_p50", "gflops", "samples_us"}) {
    EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(record.get(key))) << key;
  }
}

TEST(Record, SurvivesTheRoundTrip) {
  const Record record = sample();
  const std::string line = to_json_line(record);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const Record back = from_json_line(line);
  ASSERT_EQ(back.values().size(), record.values().size());
  for (size_t i = 0; i < record.values().size(); ++i) {
    EXPECT_EQ(back.values()[i].first, record.values()[i].first);
    EXPECT_TRUE(back.values()[i].second == record.values()[i].second) << record.values()[i].first;
  }
}

TEST(Record, WritesValidTextWhateverNamesHold) {
  Record record("layer");
  record.set("reason", std::string("bytes \xff\xc3 that are no UTF-8"));
  EXPECT_THAT(from_json_line(to_json_line(record)).text("reason"), HasSubstr("that are no UTF-8"));
}

TEST(Record, KeepsKeysOfANewerProgram) {
  EXPECT_EQ(from_json_line(line_with(R"(, "watts_p50": 3.5)")).number("watts_p50"), 3.5);
}

TEST(Record, RefusesHostileLines) {
  const std::string lines[] = {
      "",
      " ",
      "[]",
      "7",
      "{}",
      "{\"schema_version\": 1}",
      "{\"schema_version\": \"1\", \"workload\": \"layer\"}",
      "{\"schema_version\": 2, \"workload\": \"layer\"}",
      "{\"schema_version\": 1, \"workload\": 3}",
      line_with(", \"gflops\": NaN"),
      line_with(", \"gflops\": 1e999"),
      line_with(", \"gflops\": \"fast\""),
      line_with(", \"tokens\": 99999999999999999999"),
      line_with(", \"model\": 3"),
      line_with(", \"check_passed\": \"yes\""),
      line_with(", \"samples_us\": 3"),
      line_with(", \"samples_us\": [\"a\"]"),
      line_with(", \"samples_us\": [1, [2]]"),
      line_with(", \"warnings\": [1]"),
      line_with(", \"gflops\": [1]"),
      line_with(", \"extra\": {\"nested\": 1}"),
      line_with(", \"gflops\": 1, \"gflops\": 2"),
      line_with(", \"Gflops\": 1"),
      line_with(", \"\": 1"),
      line_with("} {"),
      "\xef\xbb\xbf" + line_with(""),
  };
  for (const std::string& line : lines) EXPECT_THROW((void)from_json_line(line), std::runtime_error) << line;
}

TEST(ReadRecords, DropsATornLastLineAndSaysSo) {
  const std::string whole = to_json_line(sample()) + "\n";
  const TempFile file(whole + whole + whole.substr(0, whole.size() / 2));
  std::string warning;
  EXPECT_THAT(read_records(file.path(), &warning), SizeIs(2));
  EXPECT_THAT(warning, HasSubstr(":3: dropped a torn last line"));
}

TEST(ReadRecords, TakesALastLineThatLacksOnlyItsNewline) {
  const TempFile file(to_json_line(sample()));
  std::string warning;
  EXPECT_THAT(read_records(file.path(), &warning), SizeIs(1));
  EXPECT_THAT(warning, IsEmpty());
}

TEST(ReadRecords, NamesAMalformedLine) {
  const std::string whole = to_json_line(sample()) + "\n";
  for (const std::string& bad : {std::string("\n"), std::string("{\n"), std::string(4, '\0') + "\n"}) {
    const TempFile file(whole + bad + whole);
    try {
      (void)read_records(file.path(), nullptr);
      FAIL() << "took " << bad;
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr(file.path() + ":2: "));
    }
  }
}

TEST(ReadRecords, SaysWhatCannotBeRead) {
  EXPECT_THROW((void)read_records("/nonexistent/records.jsonl", nullptr), std::runtime_error);
  EXPECT_THROW((void)read_records(testing::TempDir(), nullptr), std::runtime_error);
}

TEST(JsonlWriter, AppendsWholeLines) {
  const TempFile file("");
  {
    JsonlWriter writer(file.path());
    writer.append({sample(), sample()});
    EXPECT_THAT(read_records(file.path(), nullptr), SizeIs(2)) << "not on disk before the writer closes";
    writer.append({sample()});
  }
  JsonlWriter(file.path()).append({sample()});
  EXPECT_THAT(read_records(file.path(), nullptr), SizeIs(4));
}

TEST(JsonlWriter, CutsATornLastLineOff) {
  const std::string whole = to_json_line(sample()) + "\n";
  const TempFile file(whole + whole.substr(0, 30));
  JsonlWriter(file.path()).append({sample()});
  EXPECT_EQ(file.text(), whole + whole);
}

TEST(JsonlWriter, EndsAWholeLastLine) {
  const std::string line = to_json_line(sample());
  const TempFile file(line);
  JsonlWriter(file.path()).append({sample()});
  EXPECT_EQ(file.text(), line + "\n" + line + "\n");
}

TEST(JsonlWriter, SaysWhenItCannotWrite) {
  EXPECT_THROW(JsonlWriter("/nonexistent/records.jsonl"), std::runtime_error);
  EXPECT_THROW(JsonlWriter("/dev/full"), std::runtime_error);
}

TEST(Record, TheLastOfEachCaseStandsWhereItsFirstStood) {
  std::vector<Record> records;
  for (const auto& [name, status] : {std::pair("a", "invalid"), std::pair("b", "ok"), std::pair("a", "ok")}) {
    Record& record = records.emplace_back("layer");
    record.set("case", std::string(name));
    record.set("status", std::string(status));
  }
  const std::vector<Record> last = last_of_each_case(std::move(records));
  ASSERT_EQ(last.size(), 2u);
  EXPECT_EQ(last[0].text("case"), "a");
  EXPECT_EQ(last[0].text("status"), "ok");
  EXPECT_EQ(last[1].text("case"), "b");
}

}  // namespace
}  // namespace lamina

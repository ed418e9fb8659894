#include "bench/sinks/sink.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/text.hpp"

namespace lamina {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

Record row(const std::string& scheme, const std::string& shard, int64_t tokens, double p50) {
  Record record("layer");
  record.set("case", "o_proj/" + scheme + "/" + shard + "/m" + std::to_string(tokens));
  record.set("model", std::string("llama-3-8b"));
  record.set("layer", std::string("o_proj"));
  record.set("in_features", int64_t{4096});
  record.set("out_features", int64_t{4096});
  record.set("tokens", tokens);
  record.set("scheme", scheme);
  record.set("device", std::string("cpu"));
  record.set("cache", std::string("cold"));
  record.set("kernel", std::string("native"));
  record.set("shard", shard);
  record.set("ranks", int64_t{2});
  record.set("nodes", int64_t{1});
  record.set("threads", int64_t{1});
  record.set("status", std::string("ok"));
  record.set("latency_us_p50", p50);
  record.set("latency_us_ci_low", p50 * 0.99);
  record.set("latency_us_ci_high", p50 * 1.01);
  record.set("samples_us", std::vector<double>{p50, p50 * 0.9, p50 * 1.2});
  record.set("iterations_per_sample", int64_t{2});
  record.set("weight_bytes", int64_t{8'912'896});
  record.set("limit_kind", std::string("memory"));
  record.set("limit_fraction", 0.834);
  record.set("speedup_vs_dense", 3.456);
  record.set("check_passed", true);
  record.set("check_error", 1e-6);
  record.set("check_tolerance", 4e-6);
  record.set("quality_nmse", 1.23e-5);
  return record;
}

RunRows run_of(std::vector<Record> records, const std::string& name = "one",
               const std::string& machine = "host") {
  return {name, machine, "2026-01-02T03:04:05Z", 2, std::move(records)};
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// Rows of all tables, without headings, headers and rules.
std::vector<std::string> body(const std::string& table) {
  std::vector<std::string> out;
  for (const std::string& line : lines(table)) {
    if (line.starts_with("| ") && line.find("scheme") == std::string::npos) out.push_back(line);
  }
  return out;
}

TEST(Sinks, AreFoundByName) {
  for (const char* name : {"table", "pareto", "csv", "google_benchmark", "google_benchmark_median",
                           "custom_smaller_is_better", "custom_bigger_is_better", "bencher", "fom"}) {
    ASSERT_NE(find_sink(name), nullptr) << name;
    EXPECT_FALSE(find_sink(name)->help.empty());
  }
  EXPECT_EQ(find_sink("xml"), nullptr);
}

TEST(Table, GroupsByLayerAndTokens) {
  const std::string text = table_sink().render(
      {run_of({row("int8", "row", 1, 10), row("dense-f32", "row", 64, 90), row("dense-f32", "row", 1, 30)})});
  EXPECT_THAT(lines(text), testing::IsSupersetOf({"### llama-3-8b o_proj, K×N 4096×4096, 1 token",
                                                  "### llama-3-8b o_proj, K×N 4096×4096, 64 tokens"}));
  // Dense first within its group, though it came last.
  ASSERT_THAT(body(text), SizeIs(3));
  EXPECT_THAT(body(text)[0], HasSubstr("dense-f32"));
  EXPECT_THAT(body(text)[1], HasSubstr("int8"));
  EXPECT_THAT(text, HasSubstr("All rows: machine host, device cpu, cache cold.\n"));
}

TEST(Table, CellsReadAsTheyShould) {
  const std::string text = table_sink().render({run_of({row("int8", "row", 1, 1234.5)})});
  ASSERT_THAT(body(text), SizeIs(1));
  const std::string cells = body(text)[0];
  for (const char* cell : {"| int8 ", " 2×1 |", " 1234 [1222, 1247] |", " 3.46× |", " 83 % memory |",
                           " 8.91 |", " 1.2e-05 |", " ok 0.25 |"}) {
    EXPECT_THAT(cells, HasSubstr(cell));
  }
  EXPECT_THAT(text, HasSubstr("p50 µs [95 % CI]"));
}

TEST(Table, LinesUp) {
  const std::string text = table_sink().render(
      {run_of({row("int8", "row", 1, 9.5), row("lowrank-r256-int8", "column", 64, 123456)})});
  std::vector<size_t> widths;
  for (const std::string& line : lines(text)) {
    if (line.starts_with("|")) widths.push_back(display_width(line));
  }
  EXPECT_THAT(widths, AllOf(SizeIs(6), Each(widths.front())));
}

TEST(Table, DropsEmptyColumnsAndShowsWhatDiffers) {
  const std::string plain = table_sink().render({run_of({row("int8", "row", 1, 10)})});
  EXPECT_THAT(plain, Not(HasSubstr("comm KB")));
  EXPECT_THAT(plain, Not(HasSubstr("| cache")));
  Record silent = row("int8", "none", 1, 10), loud = row("int8", "row", 1, 10);
  silent.set("comm_bytes", int64_t{0});
  loud.set("comm_bytes", int64_t{16384});
  EXPECT_THAT(table_sink().render({run_of({silent})}), Not(HasSubstr("comm KB")));
  EXPECT_THAT(body(table_sink().render({run_of({silent, loud})})),
              ElementsAre(HasSubstr(" 0 |"), HasSubstr(" 16.4 |")));
  Record hot = row("int8", "row", 1, 5);
  hot.set("cache", std::string("hot"));
  EXPECT_THAT(table_sink().render({run_of({row("int8", "row", 1, 10), hot})}), HasSubstr("| cache"));
}

TEST(Table, SelfIsNoOtherCommunicator) {
  Record alone = row("int8", "none", 1, 10), together = row("int8", "row", 1, 10),
         gpu = row("int8", "row", 1, 10);
  alone.set("communicator", std::string("self"));
  together.set("communicator", std::string("mpi"));
  gpu.set("communicator", std::string("nccl"));
  EXPECT_THAT(table_sink().render({run_of({alone, together})}), HasSubstr(", communicator mpi."));
  EXPECT_THAT(table_sink().render({run_of({alone, together, gpu})}), HasSubstr("| communicator"));
}

TEST(Table, SaysWhyARowHasNoTime) {
  Record bad("layer");
  bad.set("scheme", std::string("int8"));
  bad.set("status", std::string("invalid"));
  bad.set("reason", std::string("token 3 | feature 7 is off"));
  bad.set("check_passed", false);
  bad.set("check_error", 5.0);
  bad.set("check_tolerance", 2.0);
  const std::string text = table_sink().render({run_of({bad})});
  EXPECT_THAT(text, HasSubstr("FAILED 2.5"));
  EXPECT_THAT(text, HasSubstr("invalid: token 3 \\| feature 7 is off"));
}

TEST(Table, NumbersWarnings) {
  Record dubious = row("int8", "row", 1, 10);
  dubious.set("warnings", std::vector<std::string>{"ranks share a core", "clock throttled"});
  const std::string text = table_sink().render({run_of({row("dense-f32", "row", 1, 10), dubious})});
  EXPECT_THAT(body(text)[1], HasSubstr(" 1 2 |"));
  EXPECT_THAT(text, HasSubstr("1. ranks share a core\n2. clock throttled\n"));
}

TEST(Table, DisarmsNames) {
  Record evil = row("int8|x\x1b[2J\n# head", "row", 1, 10);
  evil.set("model", std::string("m\n\n| a | b |"));
  const std::string text = table_sink().render({run_of({evil})});
  EXPECT_THAT(text, HasSubstr("int8\\|x\\x1b[2J\\x0a# head"));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  ASSERT_THAT(body(text), SizeIs(1));
}

TEST(Table, TellsRunsApart) {
  const Record record = row("int8", "row", 1, 10);
  const std::string machines =
      table_sink().render({run_of({record}, "a", "alpha"), run_of({record}, "b", "beta")});
  EXPECT_THAT(machines,
              AllOf(HasSubstr("| machine"), HasSubstr("alpha"), HasSubstr("beta"), Not(HasSubstr("| run "))));
  EXPECT_THAT(body(machines), SizeIs(2));
  EXPECT_THAT(table_sink().render({run_of({record}, "a"), run_of({record}, "b")}), HasSubstr("| run "));
  EXPECT_THAT(table_sink().render({run_of({record}, "a"), run_of({row("int8", "none", 1, 9)}, "b")}),
              Not(HasSubstr("| run ")));
}

TEST(Table, NoRows) {
  EXPECT_EQ(table_sink().render({run_of({})}), "No rows.\n");
}

TEST(Csv, QuotesAndEndsLinesAsRfc4180) {
  Record record = row("a,\"b\"\nc", "row", 1, 0.1);
  record.set("warnings", std::vector<std::string>{"one", "two"});
  const std::string text = csv_sink().render({run_of({record}, "r,1")});
  EXPECT_THAT(text, testing::StartsWith("run,machine,schema_version,"));
  EXPECT_THAT(text, testing::EndsWith("\r\n"));
  EXPECT_THAT(text, HasSubstr("\r\n\"r,1\",host,1,"));
  EXPECT_THAT(text, HasSubstr(",\"a,\"\"b\"\"\nc\","));
  EXPECT_THAT(text, HasSubstr(",one; two,0.1,"));
  EXPECT_THAT(text, Not(HasSubstr("samples_us")));
}

TEST(Csv, EveryRowHasEveryColumnInTheTablesOrder) {
  Record int4 = row("int4-g128", "row", 1, 10), pruned = row("pruned-2:4", "row", 1, 10);
  int4.set("scheme_group", int64_t{128});
  pruned.set("scheme_pattern", std::string("2:4"));
  const auto rows = lines(csv_sink().render({run_of({int4}), run_of({pruned})}));
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_THAT(rows[0], AllOf(HasSubstr(",scheme,"), HasSubstr("scheme_group"), HasSubstr("scheme_pattern")));
  EXPECT_LT(rows[0].find("scheme_pattern"), rows[0].find("weight_dtype"));
  const auto commas = [](const std::string& line) { return std::count(line.begin(), line.end(), ','); };
  EXPECT_EQ(commas(rows[1]), commas(rows[0]));
  EXPECT_EQ(commas(rows[2]), commas(rows[0]));
}

nlohmann::json google(const std::vector<RunRows>& runs) {
  return nlohmann::json::parse(google_benchmark_sink().render(runs));
}

TEST(GoogleBenchmark, HasEverySampleAndItsAggregates) {
  const auto document = google({run_of({row("int8", "row", 1, 10)})});
  EXPECT_EQ(document["context"]["host_name"], "host");
  for (const char* key : {"date", "executable", "num_cpus", "mhz_per_cpu", "cpu_scaling_enabled", "caches",
                          "load_avg", "library_build_type"}) {
    EXPECT_TRUE(document["context"].contains(key)) << key;
  }
  const auto& rows = document["benchmarks"];
  ASSERT_EQ(rows.size(), 6u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(rows[i]["run_type"], "iteration");
    EXPECT_EQ(rows[i]["name"], "o_proj/int8/row/m1");
    EXPECT_EQ(rows[i]["repetitions"], 3);
    EXPECT_EQ(rows[i]["repetition_index"], i);
    EXPECT_EQ(rows[i]["iterations"], 2);
    EXPECT_EQ(rows[i]["time_unit"], "us");
    EXPECT_EQ(rows[i]["threads"], 2);
  }
  EXPECT_DOUBLE_EQ(rows[2]["real_time"], 12);
  EXPECT_EQ(rows[3]["name"], "o_proj/int8/row/m1_mean");
  EXPECT_EQ(rows[3]["aggregate_name"], "mean");
  EXPECT_DOUBLE_EQ(rows[3]["real_time"], 31.0 / 3);
  EXPECT_DOUBLE_EQ(rows[4]["real_time"], 10);
  EXPECT_DOUBLE_EQ(rows[4]["speedup_vs_dense"], 3.456);
  EXPECT_NEAR(rows[5]["real_time"], 1.5275252316519468, 1e-12);
}

TEST(GoogleBenchmark, LeavesOutWhatIsNotOk) {
  Record bad = row("int8", "row", 1, 0);
  bad.set("status", std::string("error"));
  const auto document = google({run_of({bad})});
  EXPECT_TRUE(document["benchmarks"].empty());
}

TEST(GoogleBenchmark, NamesFromSeveralRunsDiffer) {
  const auto document =
      google({run_of({row("int8", "row", 1, 10)}, "a"), run_of({row("int8", "row", 1, 10)}, "b")});
  EXPECT_EQ(document["benchmarks"][0]["name"], "a/o_proj/int8/row/m1");
  EXPECT_EQ(document["benchmarks"][6]["name"], "b/o_proj/int8/row/m1");
}

class LoadRun : public testing::Test {
 protected:
  void SetUp() override {
    // The tests run side by side, each in a process of its own.
    const std::string own = "lamina-load-run-" + std::to_string(::getpid());
    folder_ = std::filesystem::path(testing::TempDir()) / own / "some-run";
    std::filesystem::create_directories(folder_);
    write("records.jsonl", to_json_line(row("int8", "row", 1, 10)) + "\n");
  }
  void TearDown() override { std::filesystem::remove_all(folder_.parent_path()); }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }

  std::filesystem::path folder_;
};

TEST_F(LoadRun, TakesAFolderOrItsRecords) {
  for (const std::string& path :
       {folder_.string(), folder_.string() + "/", (folder_ / "records.jsonl").string()}) {
    std::string warning;
    const RunRows run = load_run(path, &warning);
    EXPECT_EQ(run.name, "some-run") << path;
    EXPECT_THAT(run.records, SizeIs(1)) << path;
    EXPECT_EQ(warning, "") << path;
  }
}

TEST_F(LoadRun, TakesTheMachineFromTheEnvironment) {
  write("environment.json",
        R"({"machine": {"host": "alpha", "cores": 3},
                                 "launches": [{"started": "2026-01-02T03:04:05Z"}, {"started": "2027"}]})");
  const RunRows run = load_run(folder_.string(), nullptr);
  EXPECT_EQ(run.machine, "alpha");
  EXPECT_EQ(run.cores, 3);
  EXPECT_EQ(run.date, "2026-01-02T03:04:05Z");
}

TEST_F(LoadRun, ABrokenEnvironmentIsAWarning) {
  write("environment.json", "{");
  std::string warning;
  EXPECT_THAT(load_run(folder_.string(), &warning).records, SizeIs(1));
  EXPECT_THAT(warning, HasSubstr("environment.json"));
}

TEST_F(LoadRun, SaysWhatIsNotARun) {
  try {
    (void)load_run(folder_.parent_path().string(), nullptr);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("records.jsonl"));
  }
}

Record factorisation(const std::string& rule, const std::string& method, int64_t ranks) {
  Record record("svd");
  record.set("case", "svd/7168x2048/" + rule + "/" + method + "/p" + std::to_string(ranks) + "t1");
  record.set("layer", std::string("7168x2048"));
  record.set("in_features", int64_t{7168});
  record.set("out_features", int64_t{2048});
  record.set("ranks", ranks);
  record.set("threads", int64_t{1});
  record.set("status", std::string("ok"));
  record.set("latency_us_p50", 1.5e6);
  record.set("svd_method", method);
  record.set("svd_rule", rule);
  record.set("svd_rank", int64_t{300});
  record.set("svd_scaling", std::string("strong"));
  record.set("svd_multiply_s", 0.9);
  record.set("svd_communicate_s", 0.1);
  record.set("svd_eigensolve_s", 0.5);
  record.set("svd_orthogonalize_s", 0.0);
  record.set("svd_error", 0.5);
  record.set("svd_optimal_error", 0.4);
  return record;
}

TEST(Table, FactorisationsHaveTablesOfTheirOwn) {
  const std::string table = table_sink().render(
      {run_of({factorisation("rank 1024", "gram", 2), factorisation("error 0.5", "gram", 1),
               factorisation("rank 256", "gram", 2), factorisation("rank 256", "gram", 1),
               row("int8", "none", 1, 10), factorisation("rank 256", "lapack", 1)})});
  const size_t layers = table.find("### llama-3-8b o_proj"), svds = table.find("### svd, K×N 7168×2048");
  ASSERT_NE(svds, std::string::npos);
  EXPECT_LT(layers, svds);
  EXPECT_EQ(table.substr(0, svds).find("| method"), std::string::npos);
  EXPECT_EQ(table.substr(svds).find("| scheme"), std::string::npos);
  std::vector<std::string> found;
  for (const std::string& line : lines(table.substr(svds)))
    if (line.starts_with("| gram") || line.starts_with("| lapack")) found.push_back(line);
  ASSERT_THAT(found, SizeIs(5));
  // By the rule, smaller ranks first; the peer first; over ranks.
  EXPECT_THAT(found[0], HasSubstr("| lapack"));
  EXPECT_THAT(found[1], AllOf(HasSubstr(" 256 "), HasSubstr("1×1"), HasSubstr("1.500"), HasSubstr("60 %"),
                              HasSubstr("33 %"), HasSubstr("1.25000×")));
  EXPECT_THAT(found[2], HasSubstr("2×1"));
  EXPECT_THAT(found[3], HasSubstr(" 1024 "));
  EXPECT_THAT(found[4], HasSubstr("error 0.5: 300"));
}

TEST(Table, AMatrixThatGrowsWithItsRanksIsOneTable) {
  std::vector<Record> records;
  for (const int64_t ranks : {1, 2}) {
    records.push_back(factorisation("rank 256", "gram", ranks));
    records.back().set("svd_scaling", std::string("weak"));
    records.back().set("out_features", 2048 * ranks);
  }
  const std::string table = table_sink().render({run_of(std::move(records))});
  EXPECT_THAT(table, HasSubstr("### svd, K×N 7168×(2048 a rank)\n"));
  EXPECT_EQ(table.find("###"), table.rfind("###"));
}

}  // namespace
}  // namespace lamina

#include "bench/cli.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lamina {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Command = CommandLine::Command;

CommandLine read(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "lamina");
  return read_command_line(static_cast<int>(arguments.size()), arguments.data());
}

TEST(CommandLine, Run) {
  const CommandLine line = read({"run", "a.json", "-o", "dir", "--filter", "[ab]", "--set", "tokens=[1,2]",
                                 "--set", "seed=2", "--dry-run", "--yes"});
  EXPECT_EQ(line.command, Command::run) << line.text;
  EXPECT_EQ(line.run.config_path, "a.json");
  EXPECT_EQ(line.run.out_dir, "dir");
  EXPECT_EQ(line.run.filter, "[ab]");
  EXPECT_THAT(line.run.overrides, ElementsAre("tokens=[1,2]", "seed=2"));
  EXPECT_TRUE(line.run.dry_run);
  EXPECT_TRUE(line.run.many);
  EXPECT_FALSE(line.run.resume);
  EXPECT_EQ(line.run.command_line.size(), 13u);
}

// --set must not swallow what follows its one value.
TEST(CommandLine, SetTakesOneValue) {
  const CommandLine line = read({"run", "--set", "[1]=[2]", "a.json"});
  EXPECT_EQ(line.run.config_path, "a.json") << line.text;
  EXPECT_THAT(line.run.overrides, ElementsAre("[1]=[2]"));
}

TEST(CommandLine, Export) {
  const CommandLine line = read({"export", "a", "b", "--format", "csv", "-o", "out.csv"});
  EXPECT_EQ(line.command, Command::export_runs) << line.text;
  EXPECT_THAT(line.runs, ElementsAre("a", "b"));
  EXPECT_EQ(line.format, "csv");
  EXPECT_EQ(line.out_file, "out.csv");
  EXPECT_EQ(read({"export", "a"}).format, "table");
}

TEST(CommandLine, Compare) {
  const CommandLine line = read({"compare", "a", "b", "--alpha", "0.05", "--floor", "3", "--limit", "8",
                                 "--format", "markdown", "-o", "v.json", "--across-machines"});
  EXPECT_EQ(line.command, Command::compare) << line.text;
  EXPECT_EQ(line.compare.base, "a");
  EXPECT_EQ(line.compare.next, "b");
  EXPECT_DOUBLE_EQ(line.compare.settings.alpha, 0.05);
  EXPECT_DOUBLE_EQ(line.compare.settings.floor, 0.03);
  EXPECT_DOUBLE_EQ(line.compare.settings.limit, 0.08);
  EXPECT_TRUE(line.compare.settings.across_machines);
  EXPECT_EQ(line.compare.format, "markdown");
  EXPECT_EQ(line.compare.out_file, "v.json");
  EXPECT_DOUBLE_EQ(read({"compare", "a", "b"}).compare.settings.floor, 0.02);
}

TEST(CommandLine, WhatStartsOthers) {
  const CommandLine ab = read({"ab", "--base", "old", "--new", "new", "c.json", "--launches", "7",
                               "--launcher", "mpirun -n 2", "--set", "seed=2", "--floor", "4"});
  EXPECT_EQ(ab.command, Command::ab) << ab.text;
  EXPECT_TRUE(ab.starts_others());
  EXPECT_EQ(ab.ab.base_binary, "old");
  EXPECT_EQ(ab.ab.new_binary, "new");
  EXPECT_EQ(ab.ab.start.config_path, "c.json");
  EXPECT_EQ(ab.ab.launches, 7);
  EXPECT_THAT(ab.ab.start.launcher, ElementsAre("mpirun", "-n", "2"));
  EXPECT_THAT(ab.ab.start.overrides, ElementsAre("seed=2"));
  EXPECT_DOUBLE_EQ(ab.ab.report.settings.floor, 0.04);
  const CommandLine self =
      read({"selftest", "c.json", "--limit", "7", "--slow", "s", "--slow", "t", "--times"});
  EXPECT_EQ(self.command, Command::selftest) << self.text;
  EXPECT_TRUE(self.starts_others());
  EXPECT_EQ(self.ab.launches, 30);
  EXPECT_THAT(self.ab.slow_binaries, ElementsAre("s", "t"));
  EXPECT_TRUE(self.ab.report.settings.times_only);
  EXPECT_DOUBLE_EQ(self.ab.report.settings.limit, 0.07);
  const CommandLine many = read({"run", "c.json", "--launches", "3", "-o", "d", "--filter", "x"});
  EXPECT_EQ(many.command, Command::run_launches) << many.text;
  EXPECT_EQ(many.launches, 3);
  EXPECT_EQ(many.start.filter, "x");
  EXPECT_FALSE(read({"run", "c.json"}).starts_others());
}

TEST(CommandLine, HelpAndVersion) {
  EXPECT_EQ(read({"list"}).command, Command::list);
  for (auto arguments : std::vector<std::vector<const char*>>{
           {"--help"}, {"-h"}, {"run", "--help"}, {"export", "-h"}, {"list", "--help"}, {"--version"}}) {
    const CommandLine line = read(arguments);
    EXPECT_EQ(line.command, Command::none);
    EXPECT_EQ(line.exit_code, 0);
    EXPECT_THAT(line.text, HasSubstr("amina"));
  }
  EXPECT_THAT(read({"export", "--help"}).text, HasSubstr("google_benchmark"));
}

struct BadUse {
  std::vector<const char*> arguments;
  const char* message;
};

TEST(CommandLine, BadUsageIsExplained) {
  const BadUse table[] = {
      {{}, "expected a command"},
      {{"rnu"}, "did you mean `run`?"},
      {{"frobnicate"}, "unknown command `frobnicate`"},
      {{"--frobnicate"}, "unknown flag `--frobnicate`"},
      {{"run"}, "CONFIG"},
      {{"run", "a.json", "b.json"}, "found `b.json`"},
      {{"run", "a.json", "--dryrun"}, "did you mean `--dry-run`?"},
      {{"run", "a.json", "--fliter=x"}, "did you mean `--filter`?"},
      {{"run", "a.json", "--filter", "("}, "expected a regular expression"},
      {{"ab", "--base", "a", "--new", "b", "a.json", "--filter", "("}, "expected a regular expression"},
      {{"run", "a.json", "--launches", "2", "-o", "d", "--filter", "("}, "expected a regular expression"},
      {{"run", "a.json", "--set"}, "--set"},
      {{"run", "a.json", "-o"}, "--out"},
      {{"run", "a.json", "--resume"}, "expected -o DIR"},
      {{"run", "a.json", "--resume", "--dry-run", "-o", "d"}, "found both"},
      {{"run", "a.json", "--launches", "0"}, "--launches"},
      {{"run", "a.json", "--launches", "3"}, "expected -o DIR"},
      {{"run", "a.json", "--launches", "3", "-o", "d", "--dry-run"}, "found both"},
      {{"run", "a.json", "--launcher", "mpirun"}, "expected --launches too"},
      {{"compare", "a"}, "NEW"},
      {{"compare", "a", "b", "c"}, "found `c`"},
      {{"compare", "a", "b", "--alpha", "nan"}, "--alpha: expected"},
      {{"compare", "a", "b", "--floor", "-1"}, "--floor: expected"},
      {{"compare", "a", "b", "--limit", "inf"}, "--limit: expected"},
      {{"compare", "a", "b", "--quality-factor", "0.5"}, "--quality-factor: expected"},
      {{"compare", "a", "b", "--format", "markdwon"}, "did you mean `markdown`?"},
      {{"ab", "c.json"}, "--base"},
      {{"ab", "c.json", "--base", "a", "--new", "b", "--launches", "1"}, "--launches"},
      {{"ab", "c.json", "--base", "a", "--new", "b", "--resume"}, "expected -o DIR"},
      {{"selftest"}, "CONFIG"},
      {{"selftest", "c.json", "--format", "json"}, "unknown flag `--format`"},
      {{"export"}, "RUN"},
      {{"export", "a", "--format", "cvs"}, "did you mean `csv`?"},
      {{"list", "extra"}, "found `extra`"},
      {{"history"}, "expected `history add` or `history show`"},
      {{"history", "ad"}, "found `ad`"},
      {{"history", "add", "--file", "h"}, "RUN"},
      {{"history", "add", "run"}, "--file"},
      {{"history", "add", "run", "--file", "h", "--comit", "c"}, "did you mean `--commit`?"},
      {{"history", "add", "run", "--file", "h", "--commit", "a\nb"}, "found `a\\x0ab`"},
      {{"history", "show"}, "HISTORY"},
      {{"history", "show", "h", "--svg", "f"}, "expected --case NAME"},
      {{"\x1b[2J"}, "\\x1b[2J"},
  };
  for (const BadUse& use : table) {
    const CommandLine line = read(use.arguments);
    EXPECT_EQ(line.exit_code, kExitUsage) << use.message;
    EXPECT_EQ(line.command, Command::none) << use.message;
    EXPECT_THAT(line.text, AllOf(HasSubstr(use.message), HasSubstr("--help`"))) << use.message;
  }
}

}  // namespace
}  // namespace lamina

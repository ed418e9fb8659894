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
      {{"compare", "a", "b"}, "unknown command `compare`"},
      {{"--frobnicate"}, "unknown flag `--frobnicate`"},
      {{"run"}, "CONFIG"},
      {{"run", "a.json", "b.json"}, "found `b.json`"},
      {{"run", "a.json", "--dryrun"}, "did you mean `--dry-run`?"},
      {{"run", "a.json", "--fliter=x"}, "did you mean `--filter`?"},
      {{"run", "a.json", "--filter", "("}, "expected a regular expression"},
      {{"run", "a.json", "--set"}, "--set"},
      {{"run", "a.json", "-o"}, "--out"},
      {{"run", "a.json", "--resume"}, "expected -o DIR"},
      {{"run", "a.json", "--resume", "--dry-run", "-o", "d"}, "found both"},
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

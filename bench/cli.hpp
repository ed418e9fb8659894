// The command line: what was asked for, read without touching a file or another rank.
#pragma once

#include <string>
#include <vector>

#include "bench/history/history.hpp"
#include "bench/runner.hpp"

namespace lamina {

struct CommandLine {
  enum class Command { none, run, list, export_runs, history };
  Command command = Command::none;  // none: print `text` and exit with `exit_code`

  std::string text;  // help, version or error, with its newline
  int exit_code = kExitOk;

  RunOptions run;                 // but for config_text, which is not read yet
  std::vector<std::string> runs;  // to export
  std::string format, out_file;
  HistoryOptions history;
};

// The same on every rank, as argv is.
CommandLine read_command_line(int argc, const char* const* argv);

}  // namespace lamina

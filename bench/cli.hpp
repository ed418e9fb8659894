// The command line: what was asked for, read without touching a file or another rank.
#pragma once

#include <string>
#include <vector>

#include "bench/compare/ab.hpp"
#include "bench/compare/command.hpp"
#include "bench/compress_command.hpp"
#include "bench/history/history.hpp"
#include "bench/runner.hpp"

namespace lamina {

struct CommandLine {
  enum class Command { none, run, run_launches, compress, list, export_runs, compare, ab, selftest, history };
  Command command = Command::none;  // none: print `text` and exit with `exit_code`

  std::string text;  // help, version or error, with its newline
  int exit_code = kExitOk;

  RunOptions run;  // but for config_text, which is not read yet
  CompressOptions compress;
  std::vector<std::string> runs;  // to export
  std::string format, out_file;
  int64_t launches = 0;  // of run_launches
  compare::Start start;  // and how each starts
  compare::Options compare;
  compare::AbOptions ab;  // and of selftest

  HistoryOptions history;

  // Starts processes of its own: no rank of MPI then, which could not.
  bool starts_others() const {
    return command == Command::run_launches || command == Command::ab || command == Command::selftest;
  }
  // Of several ranks the first does it alone: prints, or reads and writes files.
  bool only_reads() const {
    return command == Command::none || command == Command::compare || command == Command::export_runs ||
           command == Command::history;
  }
};

// The same on every rank, as argv is.
CommandLine read_command_line(int argc, const char* const* argv);

}  // namespace lamina

// Starting the program again and again: what a launch is, is one start of its processes.
#pragma once

#include <string>
#include <vector>

namespace lamina::compare {

// How one `lamina run` is started.
struct Start {
  std::vector<std::string> launcher;  // mpirun -n 2; empty: none
  std::string binary;
  std::string config_path;
  std::string filter;
  std::vector<std::string> overrides;
  bool many = false;  // --yes
};

// The words of a command, which spaces separate; nothing is quoted.
std::vector<std::string> words_of(const std::string& text);

// Empty where this process may start others; else what stands against it: within mpirun, one rank cannot
// start ranks of its own.
std::string launch_hindrance();

// The file of this very program.
std::string this_program();

// DIR/launch-K
std::string launch_folder(const std::string& folder, int64_t number);
// Whether a run ended in `folder`: table.md is written last.
bool is_complete(const std::string& folder);

// Measures into `folder`, whose parent exists; what an interrupted launch left there is removed first. What
// the program prints goes to `folder`.log. Returns its exit code: 0, or 1 where rows failed. Throws
// std::runtime_error with the end of the log where it did not get to the end.
int launch(const Start& start, const std::string& folder);

// `lamina run --launches N`, of this very program: DIR/launch-1 … launch-N, those that are complete left as
// they are. Prints on stderr how far it is. Returns 0, 1 where rows failed, or 64.
int run_launches(const Start& start, const std::string& folder, int64_t launches, bool resume);

}  // namespace lamina::compare

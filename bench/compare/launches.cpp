#include "bench/compare/launches.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "bench/runner.hpp"
#include "bench/text.hpp"
#include "distributed/launcher.hpp"
#include "kernels/json.hpp"

namespace lamina::compare {
namespace {

namespace fs = std::filesystem;

// Starts words[0], found on PATH, with stdout and stderr in a new file `log`. Its exit code, or 128 and the
// signal that ended it.
int run_process(const std::vector<std::string>& words, const std::string& log) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    throw std::runtime_error(fmt::format("cannot start {}: {}", words[0], std::strerror(error)));
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR)
      throw std::runtime_error(fmt::format("cannot wait for {}: {}", words[0], std::strerror(errno)));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// The last lines of a file that may not exist.
std::string tail(const std::string& path) {
  std::string text;
  try {
    text = read_text_file(path);
  } catch (const std::runtime_error&) {
    return "";
  }
  size_t begin = text.size();
  for (int lines = 0; begin > 0 && lines < 8; --begin)
    if (text[begin - 1] == '\n' && begin != text.size() && ++lines == 8) break;
  std::istringstream in(text.substr(begin));
  std::string out;
  for (std::string line; std::getline(in, line);) out += "\n  " + printable(line);
  return out;
}

}  // namespace

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string this_program() {
  return fs::read_symlink("/proc/self/exe").string();
}

std::string launch_hindrance() {
  const LauncherClaim claim = launcher_claim();
  // A single task of Slurm's is also what an interactive shell is.
  if (claim.variable.empty() || (claim.ranks == 1 && claim.variable == "SLURM_STEP_NUM_TASKS")) return "";
  return fmt::format(
      "expected to be started without mpirun or srun ({} is set), as each launch starts its own: name it in "
      "--launcher \"mpirun -n 2\"",
      claim.variable);
}

std::string launch_folder(const std::string& folder, int64_t number) {
  return (fs::path(folder) / fmt::format("launch-{}", number)).string();
}

bool is_complete(const std::string& folder) {
  return fs::exists(fs::path(folder) / "table.md");
}

int launch(const Start& start, const std::string& folder) {
  fs::remove_all(folder);
  std::vector<std::string> words = start.launcher;
  words.insert(words.end(), {start.binary, "run", start.config_path, "-o", folder});
  if (!start.filter.empty()) words.insert(words.end(), {"--filter", start.filter});
  for (const std::string& one : start.overrides) words.insert(words.end(), {"--set", one});
  if (start.many) words.push_back("--yes");
  const std::string log = folder + ".log";
  const int code = run_process(words, log);
  if ((code == kExitOk || code == kExitFailed) && is_complete(folder)) return code;
  throw std::runtime_error(
      fmt::format("{} ended with {} before its rows were whole; {} ends:", fmt::join(words, " "), code, log) +
      tail(log));
}

int run_launches(const Start& start, const std::string& folder, int64_t launches, bool resume) {
  const std::string hindrance = launch_hindrance();
  if (!hindrance.empty()) {
    fmt::print(stderr, "lamina: --launches: {}\n", hindrance);
    return kExitUsage;
  }
  if (!resume && fs::exists(launch_folder(folder, 1))) {
    fmt::print(
        stderr,
        "lamina: {}: expected no earlier launches there, found launch-1; continue with --resume or choose "
        "another -o\n",
        printable(folder));
    return kExitUsage;
  }
  int exit_code = kExitOk;
  try {
    Start self = start;
    self.binary = this_program();
    fs::create_directories(folder);
    const auto begin = std::chrono::steady_clock::now();
    int64_t made = 0;
    for (int64_t number = 1; number <= launches; ++number) {
      if (is_complete(launch_folder(folder, number))) continue;
      exit_code = std::max(exit_code, launch(self, launch_folder(folder, number)));
      const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      fmt::print(stderr, "lamina: launch {} of {} is done; about {:.0f} s left\n", number, launches,
                 passed / static_cast<double>(++made) * static_cast<double>(launches - number));
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina: {}\n", error.what());
    return kExitFailed;
  }
  fmt::print(stderr, "lamina: {} launches are in {}\n", launches, printable(folder));
  return exit_code;
}

}  // namespace lamina::compare

// The program: reads the command line on every rank, and says what comes of it on rank 0.
#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <memory>

#include "bench/cli.hpp"
#include "bench/compare/selftest.hpp"
#include "bench/export.hpp"
#include "bench/history/history.hpp"
#include "bench/list.hpp"
#include "bench/text.hpp"
#include "distributed/communicator.hpp"
#include "distributed/launcher.hpp"
#include "kernels/cuda/cuda_devices.hpp"
#include "kernels/json.hpp"
#include "kernels/registry.hpp"

namespace lamina {
namespace {

// Rank 0 reads the config, so that what every rank runs is the same text even where file systems differ.
bool read_config_file(RunOptions& options, Communicator& world) {
  std::string text, error;
  if (world.rank() == 0) {
    try {
      text = read_text_file(options.config_path);
    } catch (const std::exception& caught) {
      error = caught.what();
      if (error.empty()) error = options.config_path + ": cannot be read";
    }
  }
  const Agreement agreement = world.agree(error);
  if (!agreement.ok) {
    if (world.rank() == 0) fmt::print(stderr, "lamina: {}\n", printable(agreement.message));
    return false;
  }
  options.config_text = world.broadcast_text(text);
  return true;
}

// What only_reads().
int read_only(const CommandLine& line) {
  if (line.command == CommandLine::Command::compare) return compare::compare_runs(line.compare);
  if (line.command == CommandLine::Command::export_runs)
    return export_runs(line.runs, line.format, line.out_file);
  if (line.command == CommandLine::Command::history) return history(line.history);
  if (line.exit_code != kExitOk) {
    fmt::print(stderr, "{}", line.text);
    return line.exit_code;
  }
  return print_out(line.text) ? kExitOk : kExitFailed;
}

int execute(CommandLine& line, Communicator& world) {
  const bool speaks = world.rank() == 0;
  int exit_code = line.exit_code;
  if (line.only_reads()) {
    if (speaks) exit_code = read_only(line);
  } else {
    Registry registry;
    std::string refused;  // an instruction set that is asked for and is not there
    try {
      register_kernels(registry);
    } catch (const std::exception& error) {
      refused = error.what();
    }
    const Agreement registered = world.agree(refused);
    if (!registered.ok) {
      if (speaks) fmt::print(stderr, "lamina: {}\n", printable(registered.message));
      return kExitUsage;
    }
    if (line.command == CommandLine::Command::run) {
      return read_config_file(line.run, world) ? run(line.run, registry, world) : kExitUsage;
    }
    if (line.command == CommandLine::Command::compress) return compress_file(line.compress, registry, world);
    if (speaks && !print_out(list_text(registry, world))) exit_code = kExitFailed;
  }
  world.broadcast(&exit_code, sizeof exit_code, 0);
  return exit_code;
}

// Without MPI: a process that is a rank cannot start ranks.
int start_others(const CommandLine& line) {
  if (line.command == CommandLine::Command::ab) return compare::run_ab(line.ab);
  if (line.command == CommandLine::Command::selftest) return compare::run_selftest(line.ab);
  return compare::run_launches(line.start, line.run.out_dir, line.launches, line.run.resume);
}

}  // namespace
}  // namespace lamina

int main(int argc, char** argv) {
  using namespace lamina;
  try {
    const CommandLine line = read_command_line(argc, argv);
    if (line.starts_others()) return start_others(line);
    // Setting up MPI takes longer than these do, and a cluster's login node may refuse it.
    if (line.only_reads() && launcher_claim().variable.empty()) return read_only(line);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitFailed;
  }
  std::unique_ptr<Launch> launch;
  try {
    launch = std::make_unique<Launch>(&argc, &argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "lamina: {}\n", error.what());
    return kExitFailed;
  }
  Communicator& world = launch->world();
  choose_gpu(world.local_rank());
  int exit_code = kExitFailed;
  try {
    CommandLine line = read_command_line(argc, argv);
    exit_code = execute(line, world);
  } catch (const std::exception& error) {
    // The others may wait for this rank in a collective: only the end of the job frees them.
    if (world.size() > 1) abort_job(world, error.what());
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
  }
  launch->finalize();
  return exit_code;
}

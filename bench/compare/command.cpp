#include "bench/compare/command.hpp"

#include <fmt/format.h>

#include <stdexcept>

#include "bench/atomic_file.hpp"
#include "bench/compare/report.hpp"
#include "bench/export.hpp"
#include "bench/runner.hpp"
#include "bench/text.hpp"

namespace lamina::compare {

int report(const Comparison& comparison, const Options& options) {
  for (const std::string& refusal : comparison.refusals)
    fmt::print(stderr, "lamina: cannot compare: {}\n", printable(refusal));
  if (!comparison.refusals.empty()) return kExitUsage;
  if (!options.out_file.empty()) {
    try {
      write_file_atomically(options.out_file, json_report(comparison));
    } catch (const std::runtime_error& error) {
      fmt::print(stderr, "lamina: {}\n", printable(error.what()));
      return kExitFailed;
    }
  }
  const std::string text = options.format == "json"       ? json_report(comparison)
                           : options.format == "markdown" ? markdown_report(comparison)
                                                          : terminal_report(comparison, options.all);
  return print_out(text) ? comparison.exit_code() : kExitFailed;
}

int compare_runs(const Options& options) {
  std::vector<std::string> warnings;
  Side sides[2];
  bool readable = true;
  for (const int i : {0, 1}) {
    try {
      sides[i] = read_side(i == 0 ? options.base : options.next, warnings);
    } catch (const std::exception& error) {
      fmt::print(stderr, "lamina: {}\n", printable(error.what()));
      readable = false;
    }
  }
  for (const std::string& warning : warnings) fmt::print(stderr, "lamina: warning: {}\n", printable(warning));
  return readable ? report(compare(sides[0], sides[1], options.settings), options) : kExitUsage;
}

}  // namespace lamina::compare

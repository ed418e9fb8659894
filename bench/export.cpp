#include "bench/export.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>

#include "bench/atomic_file.hpp"
#include "bench/cli.hpp"
#include "bench/sinks/sink.hpp"
#include "bench/text.hpp"

namespace lamina {

bool print_out(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return true;
  fmt::print(stderr, "lamina: cannot write to stdout: {}\n", std::strerror(errno));
  return false;
}

int export_runs(const std::vector<std::string>& paths, const std::string& format,
                const std::string& out_file) {
  const Sink* sink = find_sink(format);
  if (sink == nullptr) throw std::logic_error("no sink " + format);
  std::vector<RunRows> runs;
  bool readable = true;
  for (const std::string& path : paths) {
    try {
      std::string warning;
      runs.push_back(load_run(path, &warning));
      if (!warning.empty()) fmt::print(stderr, "lamina: warning: {}\n", printable(warning));
    } catch (const std::runtime_error& error) {
      fmt::print(stderr, "lamina: {}\n", printable(error.what()));
      readable = false;
    }
  }
  if (!readable) return kExitUsage;
  // Two folders of one name are told apart by their paths.
  std::map<std::string, int> names;
  for (const RunRows& run : runs) ++names[run.name];
  for (size_t i = 0; i < runs.size(); ++i) {
    if (names[runs[i].name] > 1) runs[i].name = paths[i];
  }
  const std::string text = sink->render(runs);
  if (out_file.empty()) return print_out(text) ? kExitOk : kExitFailed;
  try {
    write_file_atomically(out_file, text);
  } catch (const std::runtime_error& error) {
    fmt::print(stderr, "lamina: {}\n", printable(error.what()));
    return kExitFailed;
  }
  return kExitOk;
}

}  // namespace lamina

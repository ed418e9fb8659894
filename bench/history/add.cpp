// `lamina history add`: the file is locked from reading to writing, as two jobs of a CI may end together.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <stdexcept>
#include <system_error>
#include <tuple>

#include "bench/export.hpp"
#include "bench/history/actions.hpp"
#include "bench/runner.hpp"
#include "bench/text.hpp"
#include "kernels/json.hpp"

namespace lamina {
namespace {

[[noreturn]] void fail(const char* what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), fmt::format("cannot {} {}", what, path));
}

class LockedFile {
 public:
  explicit LockedFile(const std::string& path) : path_(path) {
    file_ = ::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (file_ < 0) fail("open", path);
    struct stat status {};
    if (::fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) {
      ::close(file_);
      throw std::runtime_error(path + ": expected a regular file");
    }
    // Some file systems have no locks: then nothing is lost but the protection.
    while (::flock(file_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~LockedFile() { ::close(file_); }
  LockedFile(const LockedFile&) = delete;
  LockedFile& operator=(const LockedFile&) = delete;

  void cut(size_t bytes) {
    struct stat status {};
    if (::fstat(file_, &status) != 0) fail("read the size of", path_);
    if (::ftruncate(file_, status.st_size - static_cast<off_t>(bytes)) != 0) fail("cut", path_);
  }

  void append(std::string_view text) {
    while (!text.empty()) {
      const ssize_t written = ::write(file_, text.data(), text.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("append to", path_);
      text.remove_prefix(static_cast<size_t>(written));
    }
    if (::fsync(file_) != 0 && errno != EINVAL && errno != ENOTSUP) fail("sync", path_);
  }

 private:
  std::string path_;
  int file_ = -1;
};

// A launch measures a case once.
using Identity = std::tuple<std::string, std::string, std::string, std::string>;
Identity identity(const HistoryPoint& point) {
  return {point.machine, point.case_name, point.run_id, point.launch_id};
}

}  // namespace

int history_add(const HistoryOptions& options) {
  std::vector<HistoryPoint> points;
  size_t left_out = 0;
  for (const std::string& path : options.runs) {
    std::string warning;
    const RunRows run = load_run(path, &warning);
    if (!warning.empty()) fmt::print(stderr, "lamina: warning: {}\n", printable(warning));
    std::vector<HistoryPoint> of_run = points_of(run, options.machine, options.commit);
    left_out += run.records.size() - of_run.size();
    points.insert(points.end(), std::make_move_iterator(of_run.begin()),
                  std::make_move_iterator(of_run.end()));
  }

  std::vector<std::string> lines;
  for (const HistoryPoint& point : points) {
    try {
      lines.push_back(to_history_line(point));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(fmt::format("{}: {}", point.case_name, error.what()));
    }
  }

  LockedFile file(options.file);
  const HistoryFile held = read_history(options.file);
  std::set<Identity> known;
  for (const HistoryPoint& point : held.points) known.insert(identity(point));
  std::string text = held.lacks_newline ? "\n" : "";
  size_t added = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    if (!known.insert(identity(points[i])).second) continue;
    text += lines[i] + "\n";
    ++added;
  }
  if (added > 0) {
    // A line behind it would stand on a line with it, and no reader could go on.
    if (held.torn_bytes > 0) {
      fmt::print(stderr, "lamina: warning: {}: cut off\n",
                 printable(torn_text(options.file, held.torn_bytes)));
      file.cut(held.torn_bytes);
    }
    file.append(text);
  } else if (held.torn_bytes > 0) {
    fmt::print(stderr, "lamina: warning: {}: skipped\n", printable(torn_text(options.file, held.torn_bytes)));
  }

  std::string said = fmt::format("{} rows added to {}", added, options.file);
  if (added < points.size()) said += fmt::format("; {} were in it already", points.size() - added);
  if (left_out > 0) said += fmt::format("; {} left out, which have no time", left_out);
  return print_out(printable(said) + "\n") ? kExitOk : kExitFailed;
}

}  // namespace lamina

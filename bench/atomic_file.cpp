#include "bench/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

namespace lamina {
namespace {

namespace fs = std::filesystem;

std::string advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space or write elsewhere with -o";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; make it writable or write elsewhere with -o";
    case ENOENT:
      return "; create the folder first";
    default:
      return "";
  }
}

[[noreturn]] void fail(const std::string& what, const std::string& path, int error) {
  throw std::runtime_error(
      fmt::format("cannot {} {}: {}{}", what, path, std::strerror(error), advice(error)));
}

void write_all(int file, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t written = ::write(file, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path, errno);
    text.remove_prefix(static_cast<size_t>(written));
  }
}

// Removes the temporary unless it was renamed into place.
struct Temporary {
  std::string path;
  int file = -1;
  ~Temporary() {
    if (file >= 0) ::close(file);
    if (!path.empty()) ::unlink(path.c_str());
  }
};

// A rename is on disk only once its folder is. Some network file systems cannot sync folders and say EINVAL:
// there the rename is as durable as they make it.
void sync_folder(const fs::path& folder) {
  const int handle = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;
  const int status = ::fsync(handle);
  const int error = errno;
  ::close(handle);
  if (status != 0 && error != EINVAL && error != ENOTSUP) fail("sync the folder", folder.string(), error);
}

}  // namespace

namespace {

// Where a link leads.
fs::path target_of(const std::string& path) {
  std::error_code ignored;
  return fs::is_symlink(path, ignored) ? fs::weakly_canonical(path) : fs::path(path);
}

fs::path folder_of(const fs::path& target) {
  return target.has_parent_path() ? target.parent_path() : fs::path(".");
}

}  // namespace

int open_temporary(const std::string& path, std::string& temporary) {
  const fs::path target = target_of(path);
  struct stat existing {};
  mode_t mode = 0;
  if (::stat(target.c_str(), &existing) == 0) {
    if (!S_ISREG(existing.st_mode)) {
      throw std::runtime_error(
          fmt::format("cannot write {}: expected a regular file, found {}", path,
                      S_ISDIR(existing.st_mode) ? "a folder" : "a device, pipe or socket"));
    }
    // rename() would replace a read-only file without asking, since only the folder's permissions count.
    if (::access(target.c_str(), W_OK) != 0) fail("write", path, errno);
    mode = existing.st_mode & 07777;
  } else {
    const mode_t mask = ::umask(0);
    ::umask(mask);
    mode = 0666 & ~mask;
  }
  std::string name = (folder_of(target) / ("." + target.filename().string() + ".XXXXXX")).string();
  Temporary made;
  made.file = ::mkostemp(name.data(), O_CLOEXEC);
  if (made.file < 0) fail("write", path, errno);
  made.path = name;
  if (::fchmod(made.file, mode) != 0) fail("set the permissions of", path, errno);
  temporary = std::exchange(made.path, {});
  return std::exchange(made.file, -1);
}

void publish_temporary(int file, const std::string& temporary, const std::string& path) {
  const int synced = ::fsync(file), error = errno;
  const int closed = ::close(file);
  if (synced != 0) fail("sync", path, error);
  if (closed != 0) fail("close", path, errno);
  const fs::path target = target_of(path);
  if (::rename(temporary.c_str(), target.c_str()) != 0) fail("rename into", path, errno);
  sync_folder(folder_of(target));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  Temporary temporary;
  temporary.file = open_temporary(path, temporary.path);
  write_all(temporary.file, text, path);
  publish_temporary(std::exchange(temporary.file, -1), temporary.path, path);
  temporary.path.clear();
}

}  // namespace lamina

#include "bench/atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

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

void write_file_atomically(const std::string& path, std::string_view text) {
  fs::path target = path;
  std::error_code ignored;
  if (fs::is_symlink(target, ignored)) target = fs::weakly_canonical(target);
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
  const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");

  Temporary temporary;
  std::string name = (folder / ("." + target.filename().string() + ".XXXXXX")).string();
  temporary.file = ::mkostemp(name.data(), O_CLOEXEC);
  if (temporary.file < 0) fail("write", path, errno);
  temporary.path = name;
  if (::fchmod(temporary.file, mode) != 0) fail("set the permissions of", path, errno);
  write_all(temporary.file, text, path);
  if (::fsync(temporary.file) != 0) fail("sync", path, errno);
  const int closed = ::close(temporary.file);
  temporary.file = -1;
  if (closed != 0) fail("close", path, errno);
  if (::rename(temporary.path.c_str(), target.c_str()) != 0) fail("rename into", path, errno);
  temporary.path.clear();
  sync_folder(folder);
}

}  // namespace lamina

#include "bench/sinks/jsonl.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "kernels/json.hpp"

namespace lamina {
namespace {

[[noreturn]] void fail(const char* what, const std::string& path) {
  throw std::runtime_error(fmt::format("cannot {} {}: {}", what, path, std::strerror(errno)));
}

// What stands behind the last newline is either a whole record whose newline was lost, or torn.
void mend_tail(std::FILE* file, const std::string& path) {
  struct stat status {};
  if (::fstat(::fileno(file), &status) != 0) fail("read the size of", path);
  if (!S_ISREG(status.st_mode)) throw std::runtime_error(path + ": expected a regular file");
  if (status.st_size == 0) return;
  const std::string text = read_text_file(path, int64_t{4} << 30);
  if (text.back() == '\n') return;
  const size_t newline = text.rfind('\n');
  const size_t begin = newline == std::string::npos ? 0 : newline + 1;
  try {
    (void)from_json_line(std::string_view(text).substr(begin));
    if (std::fputc('\n', file) == EOF || std::fflush(file) != 0) fail("append to", path);
  } catch (const std::runtime_error&) {
    if (::ftruncate(::fileno(file), static_cast<off_t>(begin)) != 0) fail("cut the torn last line off", path);
  }
}

}  // namespace

JsonlWriter::JsonlWriter(const std::string& path) : path_(path) {
  file_ = std::fopen(path.c_str(), "ae");
  if (file_ == nullptr) fail("open", path);
  try {
    mend_tail(file_, path);
  } catch (...) {
    std::fclose(file_);
    throw;
  }
}

JsonlWriter::~JsonlWriter() {
  std::fclose(file_);
}

void JsonlWriter::append(const std::vector<Record>& records) {
  std::string text;
  for (const Record& record : records) text += to_json_line(record) + "\n";
  const bool written = std::fwrite(text.data(), 1, text.size(), file_) == text.size();
  if (!written || std::fflush(file_) != 0) fail("append to", path_);
  // Some file systems cannot sync (EINVAL): the rows are then as safe as they make them.
  if (::fsync(::fileno(file_)) != 0 && errno != EINVAL && errno != ENOTSUP) fail("sync", path_);
}

}  // namespace lamina

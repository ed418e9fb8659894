// records.jsonl: appended to while the run lasts.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "bench/record.hpp"

namespace lamina {

// Not shared between ranks: rank 0 alone writes.
class JsonlWriter {
 public:
  // Opens `path` for appending, creating it. A torn last line, left by a run that was killed, is cut off
  // first. Throws std::runtime_error naming the path.
  explicit JsonlWriter(const std::string& path);
  ~JsonlWriter();
  JsonlWriter(const JsonlWriter&) = delete;
  JsonlWriter& operator=(const JsonlWriter&) = delete;

  // Appends one line a record and returns once they are on disk (fflush, fsync). Throws std::runtime_error
  // when they are not.
  void append(const std::vector<Record>& records);

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
};

}  // namespace lamina

// Files that are either whole or not there.
#pragma once

#include <string>
#include <string_view>

namespace lamina {

// Writes `text` to `path` so that a reader, a crash or a full disk never leaves half of it: a temporary file
// in the same folder, fsync, rename over `path`, fsync of the folder. An existing regular file is replaced
// and keeps its permissions; anything else at `path` (a folder, a device, a pipe) is refused, except that a
// symbolic link is followed. Throws std::runtime_error naming the path and what to do; the temporary is then
// gone and `path` untouched.
void write_file_atomically(const std::string& path, std::string_view text);

// The parts of it, for what is written piece by piece: a temporary beside `path`, open for writing, whose
// name goes to `temporary`; and its end, which syncs, closes and renames it. `temporary` is the caller's to
// remove where the end is not reached.
int open_temporary(const std::string& path, std::string& temporary);
void publish_temporary(int file, const std::string& temporary, const std::string& path);

}  // namespace lamina

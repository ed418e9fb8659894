// Room in the file system that memory shared by a node's ranks lies in.
#pragma once

#include <string>

namespace lamina {

inline constexpr const char* kSharedMemory = "/dev/shm";

// Why so many bytes cannot be had there for what so many ranks share, and what to do; empty: they can, or
// nothing tells. Writing to memory that a file system has no room for ends the process without a word.
std::string too_little_room_in_shm(double bytes, int ranks);

}  // namespace lamina

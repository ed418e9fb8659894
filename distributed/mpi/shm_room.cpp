#include "distributed/mpi/shm_room.hpp"

#include <fmt/format.h>
#include <sys/statvfs.h>

namespace lamina {

std::string too_little_room_in_shm(double bytes, int ranks) {
  struct statvfs room {};
  if (statvfs(kSharedMemory, &room) != 0) return "";
  const double free = static_cast<double>(room.f_bavail) * static_cast<double>(room.f_frsize);
  if (bytes <= free) return "";
  constexpr double kKib = 1 << 10;
  return fmt::format(
      "expected {:.0f} KiB free in {} for what {} ranks of a node share, found {:.0f} KiB; make it larger "
      "(docker run --shm-size=1g; mount -o remount,size=1g {})",
      bytes / kKib, kSharedMemory, ranks, free / kKib, kSharedMemory);
}

}  // namespace lamina

// Arithmetic of places that `mpi-shm` does its work with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lamina {

inline std::byte* at(void* base, int64_t offset) {
  return static_cast<std::byte*>(base) + offset;
}
inline const std::byte* at(const void* base, int64_t offset) {
  return static_cast<const std::byte*>(base) + offset;
}
inline void copy_bytes(void* to, const void* from, int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
}

// Part `index` of [0, count) cut into `parts` at multiples of `unit`.
struct Part {
  int64_t begin, count;
};
inline Part part_of(int64_t count, int parts, int index, int64_t unit) {
  const int64_t each = ((count + parts - 1) / parts + unit - 1) / unit * unit;
  const int64_t begin = std::min(count, index * each);
  return {begin, std::min(count, begin + each) - begin};
}

// The node's other ranks, from the next one on: so that not all read the same rank's window at once.
struct Others {
  struct Iterator {
    int local, size, left;
    int operator*() const { return local; }
    Iterator& operator++() {
      local = local + 1 == size ? 0 : local + 1;
      --left;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return left != other.left; }
  };
  int me, size;
  Iterator begin() const { return {(me + 1) % size, size, size - 1}; }
  Iterator end() const { return {me, size, 0}; }
};

}  // namespace lamina

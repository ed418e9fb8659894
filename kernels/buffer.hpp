// Move-only memory, aligned to 64 bytes and touched first by the threads that will read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace lamina {

class Buffer {
 public:
  Buffer() = default;
  // Zero-filled; throws std::bad_alloc. Pages are touched by `threads` OpenMP threads, in equal consecutive
  // parts.
  explicit Buffer(int64_t bytes, int threads = 1);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  int64_t bytes() const { return bytes_; }
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace lamina

// Move-only memory. The host's is aligned to 64 bytes and touched first by the threads that will read it; a
// device's comes from Device::allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace lamina {

// Memory that nobody has touched. Large blocks lie on huge pages where the system grants them, and go back to
// it as soon as they are freed: what a process holds is then what it uses, whatever it did before. Throws
// std::bad_alloc.
void* allocate_pages(int64_t bytes);
void free_pages(void* data, int64_t bytes) noexcept;

// A vector's memory by these.
template <class T>
struct Paged : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = Paged<U>;
  };
  T* allocate(size_t count) {
    return static_cast<T*>(allocate_pages(static_cast<int64_t>(count * sizeof(T))));
  }
  void deallocate(T* data, size_t count) { free_pages(data, static_cast<int64_t>(count * sizeof(T))); }
};
template <class T>
using PagedVector = std::vector<T, Paged<T>>;

class Buffer {
 public:
  Buffer() = default;
  // Zero-filled; throws std::bad_alloc. Pages are touched by `threads` OpenMP threads, in equal consecutive
  // parts.
  explicit Buffer(int64_t bytes, int threads = 1);
  // Neither filled nor touched: its pages go to the threads that first write to them, which must write all.
  static Buffer untouched(int64_t bytes);
  // Owns `bytes` at `data`, which `release` gives back (and must not throw).
  Buffer(void* data, int64_t bytes, void (*release)(void*, int64_t));
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
  void (*release_)(void*, int64_t) = nullptr;
};

class Device;

// Scratch for layers of one kind that run one after the other, such as the copies of one: they share it, so
// that it stays in the caches while weights come from memory.
class Workspace {
 public:
  // Before a layer takes its buffers.
  void rewind() { next_ = 0; }
  // The same buffer for every layer's nth call, as long as it asks for as much.
  std::shared_ptr<Buffer> take(int64_t bytes, int threads);
  // The same in a device's memory; never on the way with the host's.
  std::shared_ptr<Buffer> take(int64_t bytes, Device& device);
  int64_t bytes() const;  // of all of them

 private:
  std::shared_ptr<Buffer>& next();
  std::vector<std::shared_ptr<Buffer>> buffers_;
  size_t next_ = 0;
};

}  // namespace lamina

#include "kernels/buffer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "kernels/device.hpp"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace lamina {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t round_up(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// The address sanitizer sees past the end of what malloc gave alone.
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
constexpr bool kMaps = true;

int64_t whole_pages(int64_t bytes) {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  return round_up(bytes, page);
}

// Streaming weights would otherwise miss the TLB, and touching them first takes longer than writing them.
void* map_pages(int64_t bytes) {
  const int64_t whole = whole_pages(bytes) + kHugePage;
  void* mapped =
      mmap(nullptr, static_cast<size_t>(whole), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapped);
  const int64_t before =
      round_up(reinterpret_cast<intptr_t>(begin), kHugePage) - reinterpret_cast<intptr_t>(begin);
  const int64_t after = kHugePage - before;
  if (before > 0) munmap(begin, static_cast<size_t>(before));
  if (after > 0) munmap(begin + whole - after, static_cast<size_t>(after));
  // The rest, less than a huge page, is not made one: it would take memory that nobody asked for.
  madvise(begin + before, static_cast<size_t>(bytes / kHugePage * kHugePage), MADV_HUGEPAGE);
  return begin + before;
}

void unmap_pages(void* data, int64_t bytes) {
  munmap(data, static_cast<size_t>(whole_pages(bytes)));
}
#else
constexpr bool kMaps = false;
void* map_pages(int64_t) {
  throw std::bad_alloc();
}
void unmap_pages(void*, int64_t) {}
#endif

}  // namespace

void* allocate_pages(int64_t bytes) {
  if (bytes < 0 || bytes > INT64_MAX - 2 * kHugePage) throw std::bad_alloc();
  if (kMaps && bytes >= kHugePage) return map_pages(bytes);
  void* data = std::aligned_alloc(static_cast<size_t>(kLine), static_cast<size_t>(round_up(bytes, kLine)));
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void free_pages(void* data, int64_t bytes) noexcept {
  if (kMaps && bytes >= kHugePage)
    unmap_pages(data, bytes);
  else
    std::free(data);
}

Buffer Buffer::untouched(int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  buffer.data_ = static_cast<std::byte*>(allocate_pages(bytes));
  buffer.bytes_ = bytes;
  buffer.release_ = free_pages;
  return buffer;
}

Buffer::Buffer(int64_t bytes, int threads) : Buffer(untouched(bytes)) {
  if (bytes == 0) return;
  const int64_t parts = std::max(threads, 1);
#pragma omp parallel for num_threads(static_cast <int>(parts)) schedule(static, 1) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    // Not bytes * part / parts: that overflows for absurd sizes.
    const int64_t size = bytes / parts / kLine * kLine;
    const int64_t begin = size * part;
    const int64_t end = part + 1 == parts ? bytes : begin + size;
    std::memset(data_ + begin, 0, static_cast<size_t>(end - begin));
  }
}

Buffer::Buffer(void* data, int64_t bytes, void (*release)(void*, int64_t))
    : data_(static_cast<std::byte*>(data)), bytes_(bytes), release_(release) {}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(other.release_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) release_(data_, bytes_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    release_ = other.release_;
  }
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) release_(data_, bytes_);
}

std::shared_ptr<Buffer>& Workspace::next() {
  if (next_ == buffers_.size()) buffers_.emplace_back();
  return buffers_[next_++];
}

std::shared_ptr<Buffer> Workspace::take(int64_t bytes, int threads) {
  std::shared_ptr<Buffer>& slot = next();
  if (!slot || slot->bytes() != bytes) slot = std::make_shared<Buffer>(bytes, threads);
  return slot;
}

int64_t Workspace::bytes() const {
  int64_t bytes = 0;
  for (const auto& buffer : buffers_)
    bytes += buffer ? buffer->bytes() : 0;  // none where it could not be had
  return bytes;
}

std::shared_ptr<Buffer> Workspace::take(int64_t bytes, Device& device) {
  std::shared_ptr<Buffer>& slot = next();
  if (!slot || slot->bytes() != bytes) slot = std::make_shared<Buffer>(device.allocate(bytes));
  return slot;
}

}  // namespace lamina

#include "kernels/buffer.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "kernels/device.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lamina {
namespace {

constexpr int64_t kLine = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

void* allocate_pages(int64_t bytes) {
  // Streaming weights would otherwise miss the TLB, and touching them first takes longer than writing them.
  const int64_t alignment = bytes >= 2 * kHugePage ? kHugePage : kLine;
  if (bytes < 0 || bytes > INT64_MAX - alignment) throw std::bad_alloc();
  const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded));
  if (data == nullptr) throw std::bad_alloc();
#ifdef __linux__
  if (alignment == kHugePage) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
  return data;
}

Buffer Buffer::untouched(int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  buffer.data_ = static_cast<std::byte*>(allocate_pages(bytes));
  buffer.bytes_ = bytes;
  buffer.release_ = std::free;
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

Buffer::Buffer(void* data, int64_t bytes, void (*release)(void*))
    : data_(static_cast<std::byte*>(data)), bytes_(bytes), release_(release) {}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      release_(other.release_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) release_(data_);
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    release_ = other.release_;
  }
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) release_(data_);
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

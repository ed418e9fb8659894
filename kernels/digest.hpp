// Which numbers are these? A fingerprint, to tell files that were made of others by mistake: no protection
// against who means to deceive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace lamina {

// Of `bytes` of memory, after `before`: FNV-1a's steps over words of 64 bits, with what a product only
// carries upwards folded back, so that the signs of numbers alone make a difference too.
inline uint64_t digest_of(const void* data, int64_t bytes, uint64_t before = 0xcbf29ce484222325u) {
  const auto* from = static_cast<const unsigned char*>(data);
  uint64_t digest = before;
  for (int64_t i = 0; i < bytes; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, from + i, static_cast<size_t>(std::min<int64_t>(8, bytes - i)));
    digest = (digest ^ word) * 0x100000001b3u;
    digest ^= digest >> 29;
  }
  return digest;
}

}  // namespace lamina

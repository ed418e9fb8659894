// MPI counts are ints: longer transfers go in pieces.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lamina {

inline constexpr int64_t kMaxMpiCount = int64_t{1} << 30;

// Calls piece(begin, count) for consecutive pieces of at most `limit` elements that cover [0, total); not at
// all when total is 0. Every rank that passes the same total makes the same calls.
template <class Piece>
void for_each_chunk(int64_t total, Piece&& piece, int64_t limit = kMaxMpiCount) {
  for (int64_t begin = 0; begin < total; begin += limit)
    piece(begin, static_cast<int>(std::min(limit, total - begin)));
}

}  // namespace lamina

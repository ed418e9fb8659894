#include "distributed/partition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace lamina {

std::vector<Range> partition(int64_t size, int parts, int64_t unit) {
  if (size < 0 || parts < 1 || unit < 1) {
    throw std::invalid_argument(fmt::format(
        "partition: expected size >= 0, parts >= 1 and unit >= 1, found {}, {} and {}", size, parts, unit));
  }
  const int64_t units = size / unit + (size % unit != 0);
  const int64_t share = units / parts;
  const int64_t larger = units % parts;
  std::vector<Range> ranges;
  ranges.reserve(static_cast<size_t>(parts));
  int64_t begin = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t whole = (share + (part < larger)) * unit;
    const int64_t end = std::min(size, begin + whole);
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

}  // namespace lamina

// What a collective is known by: how large its buffers are, what should come out, how much of its bytes cross
// the busiest link, and how to run it. Sizes and bandwidths are counted as nccl-tests counts them.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/transport.hpp"

namespace lamina {

struct CollectiveSizes {
  int64_t message = 0;  // elements of the whole buffer: nccl-tests' size
  int64_t count = 0;    // what the call is given, in elements: a rank's part where there are parts
  int64_t in = 0;       // elements of a rank's input
  int64_t out = 0;      // and of its output
};

// Element `index` of the output is element `index` of `rank`'s input, or where rank is −1 the sum of all
// ranks'.
struct CollectiveSource {
  int rank = -1;
  int64_t index = 0;
};

struct Collective {
  CollectiveKind kind;
  std::string name;
  std::string help;
  bool reduces = false;
  // Where input and output lie in one buffer, in elements from its start; null: there is no such form.
  struct InPlace {
    int64_t in = 0, out = 0;
  };
  std::function<InPlace(const CollectiveSizes&, int rank)> in_place;
  // Of a buffer of at most `elements`.
  std::function<CollectiveSizes(int64_t elements, int ranks)> sizes;
  std::function<CollectiveSource(const CollectiveSizes&, int rank, int ranks, int64_t i)> data;
  // Bus bandwidth over algorithm bandwidth.
  std::function<double(int ranks)> factor;
  std::function<void(Transport&, const void* in, void* out, const CollectiveSizes&, DType, Stream&)> run;
};

// One entry a collective.
const std::vector<Collective>& collectives();
const Collective* find_collective(std::string_view name);
inline constexpr int kCollectiveRoot = 0;  // of broadcast

}  // namespace lamina

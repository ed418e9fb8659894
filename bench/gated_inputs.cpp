#include "bench/gated_inputs.hpp"

#include <algorithm>
#include <vector>

#include "distributed/agree.hpp"
#include "distributed/gather.hpp"
#include "distributed/svd/tall.hpp"
#include "kernels/reference.hpp"

namespace lamina {

Matrix<float> gated_inputs(const OriginalWeights& gate_up, const Calibration& inputs, int64_t tokens,
                           Communicator& comm, int threads) {
  const int64_t width = gate_up.shape.out_features / 2, rows = gate_up.rows.size();
  std::vector<Range> slabs;
  for (const auto& ranges : gather_ranges(gate_up.rows, comm)) slabs.push_back(ranges.front());
  Matrix<float> gated, own, all;
  together(comm, [&] {
    const int64_t most = std::min(tokens, kRowBlock);
    gated = Matrix<float>(tokens, width);
    own = Matrix<float>(most, rows);
    all = Matrix<float>(most, gate_up.shape.out_features);
  });
  int64_t first = 0;
  for_each_chunk(tokens, gate_up.shape.in_features, inputs, comm, [&](const float* x, int64_t count) {
    const int64_t k = gate_up.shape.in_features;
    // Products of fixed shapes and places.
    for_each_block(rows, threads, [&](int64_t begin, int64_t some, int) {
      multiply(false, true, count, some, k, x, k, gate_up.slab.row(begin), k, own.data.data() + begin, rows);
    });
    std::vector<int64_t> bytes;
    for (const Range& slab : slabs) bytes.push_back(4 * count * slab.size());
    comm.all_gather(own.data.data(), all.data.data(), bytes);
    const float* part = all.data.data();  // [count × a rank's rows]
    for (const Range& slab : slabs) {
      for (int64_t t = 0; t < count; ++t, part += slab.size())
        for (int64_t i = slab.begin; i < std::min(slab.end, width); ++i)
          gated(first + t, i) = part[i - slab.begin];
    }
    part = all.data.data();
    for (const Range& slab : slabs) {
      for (int64_t t = 0; t < count; ++t, part += slab.size())
        for (int64_t i = std::max(slab.begin, width); i < slab.end; ++i) {
          const double up = part[i - slab.begin], gate = gated(first + t, i - width);
          gated(first + t, i - width) = static_cast<float>(silu_gate_reference(gate, up));
        }
    }
    first += count;
  });
  return gated;
}

}  // namespace lamina

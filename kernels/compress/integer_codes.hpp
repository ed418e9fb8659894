// Grids of integer codes for groups of weights, w ≈ scale · (code − zero): the widest grid, the one of least
// loss, and the codes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/compress/compensate.hpp"
#include "kernels/compress/rows.hpp"

namespace lamina {

// Codes low..high. Symmetric ones have zero 0. Asymmetric ones span a group from its least to its largest
// weight, 0 included, which has a code of its own: zero.
struct CodeRange {
  float low = -8, high = 7;
  bool asymmetric = false;
};
inline constexpr CodeRange kInt4Codes{-8, 7, false}, kInt8Codes{-127, 127, false};
inline constexpr CodeRange kInt4Asymmetric{-8, 7, true}, kInt8Asymmetric{-128, 127, true};

struct Grid {
  float scale = 0, zero = 0;  // `zero` is whole; scale 0: all weights are (nearly) 0
};

// Clamped first, so that round_even holds for any finite quotient.
inline int8_t code_of(const CodeRange& range, float w, float inverse_scale, float zero) {
  return static_cast<int8_t>(round_even(std::clamp(w * inverse_scale, range.low - zero, range.high - zero)) +
                             zero);
}

// The grid that clips least. Symmetric: the weight of largest magnitude e, sign included, falls on the lowest
// code exactly, so that all codes are in use (scale = e / low); of a range with as many codes on either side
// scale = |e| / high. Asymmetric: scale = (max − min) / (high − low), zero = rint(low − min / scale).
Grid widest_grid(const CodeRange& range, const float* w, int64_t count);

// Σ_j cost_j · (w_j − scale · (code_j − zero))².
double rounding_loss(const CodeRange& range, const float* w, const double* cost, int64_t count,
                     const Grid& grid);

// Of the widest grid, and such as span it shrunk by up to kSearchSteps · kSearchStep (symmetric ones of both
// signs), the one of least loss: what it clips may cost less than what a finer step saves. The widest itself
// where none is better.
Grid searched_grid(const CodeRange& range, const float* w, const double* cost, int64_t count);
inline constexpr int kSearchSteps = 16;
inline constexpr float kSearchStep = 0.025f;
inline constexpr int64_t kLargestGroup = 128;  // that is not a whole row

// A leaf of the slab's shape with room for codes, which are not set yet, scales and zero points. `group`
// columns share a grid; 0: each row has one.
Leaf leaf_of_codes(const RowSlab& slab, int bits, const CodeRange& range, int64_t group);

// Nearest codes of `rows`, group by group: by widest grids, or those that a square error's `cost` [K] asks
// for. False where a weight is not finite and there is no cost.
bool round_rows(const Matrix<float>& rows, const CodeRange& range, const std::vector<double>& cost,
                Leaf& leaf);

// Codes with compensation (compensate.hpp), in channel order or the loudest channels, by `costs` [K], first.
// In channel order a group's grid is of its weights as compensated when it begins; otherwise, and where a row
// is one group, grids are searched before, by those costs, of the original weights. Collective.
void round_compensated(const RowSlab& slab, const CodeRange& range, const std::vector<double>& costs,
                       bool loudest_first, int64_t tokens, double damping, Calibrator& calibrator,
                       Leaf& leaf);

// The key of asymmetric codes, and what goes with groups: 0 is a whole row.
extern const KeySpec kAsymmetric;
// False after a problem.
bool fits_group(const Params& params, const KeySpec& key, int64_t group, Shape shape);
// "-g128", or "-channel" of whole rows; nothing of the `usual` one.
std::string group_name(int64_t group, int64_t usual);
// Bytes of a layer's scales and, with `zero_bytes` each, its zero points.
int64_t grid_bytes(Shape shape, int64_t group, bool asymmetric, int64_t zero_bytes);
// What a kernel that takes zero points keeps for each token (kernels/cpu/zero_points.hpp).
int64_t zero_point_scratch(Shape shape, int64_t group);

}  // namespace lamina

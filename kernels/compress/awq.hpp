// AWQ: activation-aware weight quantization (Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han 2023).
#pragma once

#include <vector>

#include "kernels/compress/calibrator.hpp"
#include "kernels/compress/integer_codes.hpp"
#include "kernels/compress/scheme.hpp"

namespace lamina {

// By what each input channel of W is multiplied before its groups of 4-bit codes are made, and its
// activations divided: m_j^α, with m_j the mean magnitude of the channel's inputs, over the root of the
// product of their largest and smallest. Of α = 0, 1/kAwqSteps, …, 1 the one with which codes of widest
// grids lose least, Σ_ij E[x_j²]·(w_ij − ŵ_ij)² over all rows: as if channels were independent. Collective.
std::vector<float> awq_input_scales(const RowSlab& slab, const ChannelStatistics& statistics,
                                    const CodeRange& range, int64_t group, Calibrator& calibrator);
inline constexpr int kAwqSteps = 20;

}  // namespace lamina

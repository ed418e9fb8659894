// Zero points for kernels that know none.
#pragma once

#include "kernels/registry.hpp"

namespace lamina {

// A kernel that takes what `codes` takes, and the same with zero points beside the codes:
//   y_i = Σ_k s_ig·q_ik·x_k − Σ_g (s_ig·z_ig)·Σ_{k in g} x_k
// is what `codes` makes of the codes, less a dense product with the groups' sums of activations, 1/group of
// the work. Activations are those that `codes` multiplies: divided by input scales, quantized by their rule.
Kernel take_zero_points(Kernel codes);

}  // namespace lamina

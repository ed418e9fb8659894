// The config keys of synthetic weights and activations.
#pragma once

#include <vector>

#include "kernels/params.hpp"
#include "kernels/weights/source.hpp"

namespace lamina {

// spectrum_decay, correlation, outlier_share, outlier_gain; the fallbacks are SyntheticOptions' defaults.
const std::vector<KeySpec>& synthetic_keys();

// Reads all of them; problems go to the Params'.
SyntheticOptions read_synthetic(const Params& params);

}  // namespace lamina

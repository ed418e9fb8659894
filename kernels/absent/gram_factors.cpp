// CUDA, or cuSOLVER, was not built: the same interface, saying so.
#include "kernels/cuda/gram_factors.hpp"

#include "kernels/device.hpp"

namespace lamina {

std::string gram_factors_absent() {
  return "built without CUDA and its cuSOLVER; configure with the `cuda` preset";
}

GramFactors gram_factors(const Matrix<float>&, const std::function<int64_t(const std::vector<double>&)>&) {
  throw DeviceError(gram_factors_absent());
}

}  // namespace lamina

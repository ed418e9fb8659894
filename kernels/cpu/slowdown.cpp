#include "kernels/cpu/slowdown.hpp"

#include <fmt/format.h>

namespace lamina {

double injected_slowdown() {
  return LAMINA_INJECT_SLOWDOWN / 100.0;
}

std::string slowdown_warning() {
  if (injected_slowdown() == 0) return "";
  return fmt::format("built with LAMINA_INJECT_SLOWDOWN={:g}: native kernels are made slower, to test a gate",
                     100 * injected_slowdown());
}

}  // namespace lamina

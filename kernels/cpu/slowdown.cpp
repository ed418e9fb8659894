#include "kernels/cpu/slowdown.hpp"

namespace lamina {

double injected_slowdown() {
  return LAMINA_INJECT_SLOWDOWN / 100.0;
}

}  // namespace lamina

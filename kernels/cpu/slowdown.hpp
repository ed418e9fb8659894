// A slowdown that a build can be given, so that a gate can be tested with a kernel that is really slower.
#pragma once

namespace lamina {

// The share of its time that every native CPU kernel spends on computing rows a second time, from CMake's
// LAMINA_INJECT_SLOWDOWN; 0 in any build that is not made for such a test. Results stay what they are.
double injected_slowdown();

}  // namespace lamina

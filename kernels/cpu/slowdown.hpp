// A slowdown that a build can be given, so that a gate can be tested with a kernel that is really slower.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace lamina {

// The share of its time by which every native CPU kernel lasts longer, waiting at its end, from CMake's
// LAMINA_INJECT_SLOWDOWN; 0 in any build that is not made for such a test. Results stay what they are.
double injected_slowdown();

// What such a build says of itself, in each row, environment.json and `lamina list`; empty for any other.
std::string slowdown_warning();

// Does a layer's work for so many tokens, and lasts longer by that share. To time each call would make one of
// a microsecond several percent longer by itself: of short ones that follow one another the first few are
// timed, and the others wait that many of their core's cycles.
void slow_down(const void* layer, int64_t tokens, double share, const std::function<void()>& work);

}  // namespace lamina

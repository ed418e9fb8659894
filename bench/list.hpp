// `lamina list`: what a config can name, and what is absent here and why.
#pragma once

#include <string>

#include "distributed/communicator.hpp"
#include "kernels/registry.hpp"

namespace lamina {

// The whole text, from what is registered.
std::string list_text(const Registry& registry, Communicator& world);

}  // namespace lamina

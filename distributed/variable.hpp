// What environment variables say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "distributed/communicator.hpp"

namespace lamina {

// The variable's integer, `usual` where it is not set. Throws std::invalid_argument where it is none from
// `least` to `most`, saying so and `what` it is: "KiB of shared memory a rank".
int64_t variable(const char* name, const std::string& what, int64_t least, int64_t most, int64_t usual);

// The same of all ranks, which must have the same. Collective. AgreedError.
int64_t agreed_variable(const char* name, const std::string& what, int64_t least, int64_t most, int64_t usual,
                        Communicator& comm);

// The variable's word, one of `words` and the same on all ranks; empty where it is not set. Collective.
// AgreedError.
std::string agreed_word(const char* name, const std::vector<std::string>& words, Communicator& comm);

}  // namespace lamina

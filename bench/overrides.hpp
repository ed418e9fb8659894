// --set KEY=VALUE: a config's values changed from the command line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "kernels/params.hpp"

namespace lamina {

// Applies one KEY=VALUE. KEY is a path of names and indices joined by dots; one that starts with no key of
// the top level is taken in every experiment. VALUE is JSON, or else a string as it stands: `kernel=native`
// needs no quotes. What the path does not lead to, and what KEY=VALUE does not look like, are problems whose
// message names the override.
void apply_override(nlohmann::ordered_json& document, const std::string& override, Problems& problems);

}  // namespace lamina

// What a reader needs to believe a run: the machine, the versions, the binding, the config, the ceilings.
#pragma once

#include <string>
#include <vector>

#include "bench/ceilings.hpp"
#include "bench/config.hpp"
#include "bench/machine.hpp"
#include "bench/network.hpp"
#include "distributed/communicator.hpp"
#include "kernels/registry.hpp"

namespace lamina {

// "2026-11-23T10:15:00Z"
std::string utc_now();
// "runs/NAME-20261123T101500Z", where nothing is yet.
std::string fresh_run_folder(const std::string& name);
std::string commit();  // of the build

// What factorisations may call: the file it is loaded from as `version`, or why it is absent.
struct OptionalLibrary {
  std::string name, version, absent;
};
std::vector<OptionalLibrary> optional_libraries();

// environment.json's text, or `previous` (a resumed run's) with this launch appended to its "launches". Rank
// 0's. `ceilings` holds one JSON object per measured group.
std::string environment_text(const Config& config, const Machine& machine, const Registry& registry,
                             Communicator& world, const std::string& run_id, const std::string& launch_id,
                             const std::string& started, const std::vector<std::string>& command_line,
                             const std::vector<CeilingValues>& ceilings,
                             const std::vector<NetworkLine>& networks, const std::string& previous);

}  // namespace lamina

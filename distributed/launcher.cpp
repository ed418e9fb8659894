#include "distributed/launcher.hpp"

#include <fmt/format.h>

#include <cstdlib>

namespace lamina {

LauncherClaim launcher_claim() {
  // The innermost launcher first: Open MPI's and MPICH's daemons are themselves started by srun under Slurm.
  for (const char* variable :
       {"OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* text = std::getenv(variable);
    if (!text || !*text) continue;
    char* end = nullptr;
    const long ranks = std::strtol(text, &end, 10);
    if (*end == '\0' && ranks >= 1 && ranks <= 100'000'000) return {static_cast<int>(ranks), variable};
  }
  return {};
}

std::string launch_mismatch(const LauncherClaim& claim, int world_size, const std::string& library) {
  if (claim.ranks <= 1 || world_size != 1) return {};
  if (library.empty()) {
    return fmt::format(
        "expected one process, as this lamina was built without MPI; found {}={}: the launcher started "
        "several. "
        "Build with -DLAMINA_MPI=ON, or run it without a launcher",
        claim.variable, claim.ranks);
  }
  return fmt::format(
      "expected {} ranks ({}={}), found each process alone: the launcher does not speak to the MPI that "
      "lamina was "
      "built with ({}). Use that MPI's own mpirun, or srun with --mpi=pmix (see srun --mpi=list)",
      claim.ranks, claim.variable, claim.ranks, library);
}

}  // namespace lamina

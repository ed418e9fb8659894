// What the program that started this process says of the launch, read from the environment it sets.
#pragma once

#include <string>

namespace lamina {

// How many processes the launcher (mpirun, srun) says it started, and the variable that says so. 1 and empty
// when there is none. The step's task count is what counts under Slurm: SLURM_NTASKS is also set in a batch
// script, where a process on its own is nothing wrong.
struct LauncherClaim {
  int ranks = 1;
  std::string variable;
};
LauncherClaim launcher_claim();

// Empty when `world_size` agrees with the launcher, else an error: a launcher that started several processes
// of which each believes to be alone would measure contention and call it one rank. `library` names the MPI
// that was built in, or is empty for none.
std::string launch_mismatch(const LauncherClaim& claim, int world_size, const std::string& library);

}  // namespace lamina

// Waiting for another process of the node: spins while that is quick, then gives the core away, since the one
// that is waited for may need this very core.
#pragma once

#include <mpi.h>
#include <sched.h>

#include <cstdint>

namespace lamina {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// CPUs that any rank of `local`, the ranks of one node, may run on: fewer than the machine has in a container
// or under a batch system's cpuset. Collective over `local`.
int node_cpus(MPI_Comm local);

// Of ranks that outnumber their cores, the one that is waited for is most likely not running; and a core that
// others want too is theirs as soon as waiting takes longer than any message.
inline constexpr int kSpinsOversubscribed = 50, kSpins = 40'000;

// Returns once done() does.
template <class Done>
void spin_until(Done&& done, int spins) {
  for (int spin = 0; !done();) {
    if (spin < spins) {
      ++spin;
      relax();
    } else {
      sched_yield();
    }
  }
}

}  // namespace lamina

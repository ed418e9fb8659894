// What fails between the collectives of a factorisation.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <new>

#include "distributed/agree.hpp"

namespace lamina::svd {

// Returns what `work`, which communicates, returns; AgreedError passes through. Anything else failed on this
// rank alone, and from between two collectives there is no way back into step: the others wait in one, so the
// job is aborted with `what` before the message. A rank without others throws it, out of memory as
// AgreedError, which is the end of this matrix, not of the run.
template <class Work>
auto in_step(Communicator& comm, const char* what, Work&& work) {
  try {
    return work();
  } catch (const AgreedError&) {
    throw;
  } catch (const std::bad_alloc&) {
    if (comm.size() == 1) throw AgreedError(kOutOfMemory);
    abort_job(comm, fmt::format("{}: {}", what, kOutOfMemory));
  } catch (const std::exception& error) {
    if (comm.size() == 1) throw;
    abort_job(comm, fmt::format("{}: {}", what, error.what()));
  }
}

}  // namespace lamina::svd
